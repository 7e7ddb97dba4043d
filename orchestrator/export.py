"""`python -m orchestrator.export MODEL --out DIR`: write a trained model for other programs.

The files, a `torch.export` archive and ONNX, take images of every size, and hold class names,
palette and normalization. They are checked against torch on validation images.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import run_command
from orchestrator.evaluation.options import add_locations, add_model
from pipelines.imports import importing_libraries


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.export"
) -> int:
    """Run the command; return its exit status: 0 written and checked, 2 bad input or a network that
    cannot be exported, 130 interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _export(options, console))


def _export(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.evaluation.export_model import export_model

    return export_model(options, console)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a trained model as torch.export and ONNX files, and check them.",
    )
    add_model(parser, "model")
    add_locations(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder for model.pt2, model.onnx and metadata.json",
    )
    parser.add_argument(
        "--format",
        action="append",
        choices=["torch", "onnx"],
        help="write this format only; repeatable (default: both). onnx needs the extra `onnx`",
    )
    parser.add_argument(
        "--dataset",
        metavar="URI",
        help="prepared data set to check the files on (default: that of the training, or random "
        "images if it is not here)",
    )
    parser.add_argument("--split", help="its split (default: the validation split of the training)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
