"""What `orchestrator.evaluate` and `orchestrator.predict` have in common: MODEL, the options of
inference, and how bad input ends."""

import argparse
from pathlib import Path
from typing import Any

from orchestrator.console import InputError
from pipelines.evaluation.inference import InferenceConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL and how it is applied."""
    add_model(parser, "model")
    add_inference(parser)
    add_places(parser)


def add_model(parser: argparse.ArgumentParser, name: str) -> None:
    """A trained model, as the positional argument `name`."""
    parser.add_argument(
        name,
        metavar=name.upper(),
        help="runs:/ID/model (a run's last checkpoint), runs:/ID/best (on validation), "
        "models:/NAME@ALIAS, or a directory of experiment.yaml, model.safetensors and classes.yaml",
    )


def add_inference(parser: argparse.ArgumentParser) -> None:
    """How a model is applied to a picture."""
    parser.add_argument(
        "--scales",
        type=_scales,
        default=(1.0,),
        metavar="S,S,...",
        help="resize the picture by these factors and average the probabilities, e.g. 0.5,1,1.5",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored picture")
    parser.add_argument(
        "--window", type=_size, metavar="HxW", help="slide a window instead of the whole picture"
    )
    parser.add_argument(
        "--stride", type=_size, metavar="HxW", help="of the window (default: two thirds of it)"
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where models, data and the user's own modules are found."""
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR",
        help="where the ledger and the embedded data set lie (default: ./storage)",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that registers what the model is made of; repeatable",
    )


def inference_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of `InferenceConfig` as the user gave them. Raises InputError where they do not go
    together."""
    names = ("scales", "flip", "window", "stride")
    settings = {name: getattr(options, name) for name in names}
    try:
        InferenceConfig(**settings)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    return settings


def storage_of(options: argparse.Namespace) -> Path:
    """The directory of `--storage`."""
    return Path(options.storage).expanduser().resolve()


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        message = f"write factors with commas between them, such as 0.5,1,1.5; received {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        message = f"write height and width in pixels, such as 512x1024; received {text!r}"
        raise argparse.ArgumentTypeError(message) from None
