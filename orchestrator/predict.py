"""`python -m orchestrator.predict MODEL IMAGE|DIR|GLOB... --out DIR`: predict label maps of images.

File names and folders are kept. Images that cannot be read or predicted are reported and skipped,
and so are overlays that cannot be drawn; the exit status is then 1.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import run_command
from orchestrator.evaluation.options import add_options
from pipelines.imports import importing_libraries
from pipelines.preparation.images.reading import is_bands, is_scale
from pipelines.submission import SUBMISSIONS


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.predict"
) -> int:
    """Run the command; return its exit status: 0 all predicted, 1 some images or overlays skipped,
    2 bad input, 130 interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _predict(options, console))


def _predict(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.evaluation.predict_images import predict_images

    return predict_images(options, console)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Predict the label maps of images with a trained model.",
    )
    add_options(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE|DIR|GLOB",
        help="images; folders are searched recursively",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory for the results")
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="also write NAME.overlay.jpg: class colors blended over the image, with lines between "
        "classes and a legend below",
    )
    parser.add_argument(
        "--submission",
        choices=sorted(SUBMISSIONS),
        help="encode label maps for this benchmark's server instead of as class indices, and leave "
        "images as stored, without their EXIF orientation",
    )
    parser.add_argument(
        "--scale",
        type=_scale,
        metavar="LOW,HIGH",
        help="values that become black and white, for images of more than 8 bits per value and a "
        "model trained on 8-bit images; use the training data's `scale`",
    )
    parser.add_argument(
        "--bands",
        type=_bands,
        metavar="N,N,...",
        help="numbers, from 1, of the bands that the model takes, for images with more of them; "
        "use the training data's `bands`",
    )
    return parser


def _scale(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
        if not is_scale([low, high]):
            raise ValueError
    except ValueError:
        message = f"write two values in ascending order, such as 0,4095; received {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return low, high


def _bands(text: str) -> tuple[int, ...]:
    try:
        bands = [int(part) for part in text.split(",")]
        if not is_bands(bands):
            raise ValueError
    except ValueError:
        message = f"write band numbers, such as 1,2,3; received {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return tuple(bands)


if __name__ == "__main__":
    sys.exit(main())
