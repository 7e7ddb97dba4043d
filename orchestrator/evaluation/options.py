"""Command-line options shared by `orchestrator.evaluate`, `orchestrator.predict` and
`orchestrator.figures`."""

import argparse
from typing import TYPE_CHECKING, Any

from orchestrator.console import InputError
from pipelines.evaluation.config import InferenceConfig
from pipelines.option_types import parse_size

if TYPE_CHECKING:
    from orchestrator.storage import Storage

# Suffixes of the files that `orchestrator.figures` writes.
FORMATS = (".png", ".pdf", ".svg")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and all options for applying it."""
    add_model(parser, "model")
    add_inference(parser)
    add_locations(parser)


def add_model(parser: argparse.ArgumentParser, name: str) -> None:
    """Add a trained model as the positional argument `name`."""
    parser.add_argument(
        name,
        metavar=name.upper(),
        help="runs:/ID/last or runs:/ID/model (a run's last checkpoint), runs:/ID/best (on "
        "validation), models:/NAME@ALIAS, models:/NAME/VERSION, or a directory of experiment.yaml, "
        "model.safetensors and classes.yaml",
    )


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Add the options of `InferenceConfig`."""
    parser.add_argument(
        "--scales",
        type=_scales,
        default=(1.0,),
        metavar="S,S,...",
        help="resize the image by these factors and average the probabilities, e.g. 0.5,1,1.5",
    )
    parser.add_argument(
        "--flip", action="store_true", help="average with the prediction for the mirrored image"
    )
    parser.add_argument(
        "--window",
        type=parse_size,
        metavar="HxW",
        help="predict with a sliding window of this height and width in pixels instead of the "
        "whole image",
    )
    parser.add_argument(
        "--stride",
        type=parse_size,
        metavar="HxW",
        help="rows and columns from one window to the next (default: two thirds of the window)",
    )


def add_locations(parser: argparse.ArgumentParser) -> None:
    """Add the locations of models, data, and the user's own modules."""
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR|URI",
        help="location of the tracking store and the embedded data set (default: ./storage)",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that registers components of the model; repeatable",
    )


def inference_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `InferenceConfig` given by the user. Raises InputError if they are not
    valid together."""
    names = ("scales", "flip", "window", "stride")
    settings = {name: getattr(options, name) for name in names}
    try:
        InferenceConfig(**settings)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    return settings


def storage_of(options: argparse.Namespace) -> "Storage":
    """Return the storage given by `--storage`. Raises DatasetError if it is a URI with a secret."""
    from orchestrator.storage import Storage  # needs pyarrow, as the next one
    from pipelines.data.storage import check_no_secret

    check_no_secret(options.storage)
    return Storage.parse(options.storage)


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        message = f"write factors separated by commas, such as 0.5,1,1.5; received {text!r}"
        raise argparse.ArgumentTypeError(message) from None
