"""`python -m orchestrator.figures compare A B` and `... features MODEL`: draw trained models.

`compare` draws the predictions of two models on images where their mIoU differs most, selected
and scored by the mean over the seeds of each, if several are given; `features` draws a network's
feature maps before and after its flows. The suffix of --out sets the format: PNG, PDF or SVG.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import run_command
from orchestrator.evaluation.options import FORMATS, add_inference, add_locations, add_model
from pipelines.imports import importing_libraries


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.figures"
) -> int:
    """Run the command; return its exit status: 0 drawn, 1 failed, 2 bad input, 130 interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _draw(options, console))


def _draw(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.evaluation.draw_models import FIGURES

    return FIGURES[options.figure](options, console)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Draw predictions or feature maps of trained models.",
    )
    commands = parser.add_subparsers(dest="figure", required=True, metavar="compare|features")
    compare = commands.add_parser(
        "compare",
        help="two models on images where their mIoU differs most",
        description="Draw two models side by side on images where the mIoU of the image by itself "
        "differs most, gained or lost. The images are some distance apart in the split and of "
        "different groups where possible, because neighbors often show one scene.",
    )
    add_model(compare, "a")
    add_model(compare, "b")
    for name in ("a", "b"):
        compare.add_argument(
            f"--seed-of-{name}",
            action="append",
            default=[],
            metavar="MODEL",
            help=f"another seed of {name.upper()}, repeatable: images are selected and scored by "
            f"the mean over the seeds; the predictions are those of {name.upper()}",
        )
    _add_images(compare, 4, "comparison.png")
    compare.add_argument(
        "--names", nargs=2, metavar=("A", "B"), help="column titles (default: the runs' names)"
    )
    add_inference(compare)
    features = commands.add_parser(
        "features",
        help="feature maps before the flows, after DF, and after SF",
        description="Draw a network's feature maps before its flows and after each of them.",
    )
    add_model(features, "model")
    _add_images(features, 3, "features.png")
    features.add_argument("--name", help="model name in the title (default: the run's name)")
    features.add_argument(
        "--level", type=int, default=2, help="feature level; 1 is the finest (default: 2)"
    )
    for command in (compare, features):
        add_locations(command)
    return parser


def _add_images(parser: argparse.ArgumentParser, images: int, out: str) -> None:
    parser.add_argument(
        "--dataset", required=True, metavar="URI", help="a prepared data set, or `streets`"
    )
    parser.add_argument("--split", default="val", help="split of the data set (default: val)")
    parser.add_argument(
        "--images", type=int, default=images, help=f"number of images (default: {images})"
    )
    parser.add_argument(
        "--image",
        action="append",
        metavar="IDENTIFIER",
        help="show this image instead of selecting automatically; repeatable",
    )
    parser.add_argument(
        "--out",
        action="append",
        metavar="FILE",
        help=f"output file, {', '.join(FORMATS)}; repeatable (default: {out})",
    )


if __name__ == "__main__":
    sys.exit(main())
