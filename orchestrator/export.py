"""`python -m orchestrator.export MODEL --out DIR`: write a trained model for other programs.

The files, a `torch.export` archive, ONNX and a model directory, take images of every size, and hold
class names, palette and normalization. They are checked against torch on validation images. A model
card describes them, and `--push` uploads them to a Hugging Face hub.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import run_command
from orchestrator.evaluation.options import add_locations, add_model
from pipelines.imports import importing_libraries
from pipelines.option_types import parse_size


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.export"
) -> int:
    """Run the command; return its exit status: 0 written and checked, 2 bad input, a network that
    cannot be exported or a push that failed, 130 interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _export(options, console))


def _export(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.evaluation.export_model import export_model

    return export_model(options, console)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a trained model as torch.export and ONNX files and as a model "
        "directory, check them, and describe them in a model card.",
    )
    add_model(parser, "model")
    add_locations(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="directory for model.pt2, model.onnx, metadata.json, the model directory "
        "(experiment.yaml, classes.yaml, model.safetensors) and the card README.md; it must not "
        "hold any of these that this command does not replace",
    )
    parser.add_argument(
        "--format",
        action="append",
        choices=["torch", "onnx", "safetensors"],
        help="write this format only; repeatable (default: all). onnx needs the extra `onnx`; "
        "safetensors is the model directory",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="height and width of the only images that model.pt2 and model.onnx take, one at a "
        "time, for a network that cannot be exported for every size; all files are checked on "
        "images of this size",
    )
    parser.add_argument(
        "--dataset",
        metavar="URI",
        help="prepared data set to check the files on (default: that of the training, or random "
        "images if it is not here)",
    )
    parser.add_argument("--split", help="its split (default: the validation split of the training)")
    parser.add_argument(
        "--license", metavar="ID", help="license of the weights in the card, such as apache-2.0"
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="upload the files to this model repository of the Hugging Face hub (HF_ENDPOINT), in "
        "one commit; needs the extra `hub`, and HF_TOKEN or hf auth login",
    )
    parser.add_argument(
        "--private", action="store_true", help="create the repository of --push as a private one"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
