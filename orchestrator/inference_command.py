"""What `orchestrator.evaluate` and `orchestrator.predict` have in common: MODEL, the options of
inference, and how bad input ends."""

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models import PretrainedError
from orchestrator.address import UnreachableError
from orchestrator.chatter import FILE_WIDTH
from orchestrator.ledger import LedgerError
from orchestrator.source import StudyError
from orchestrator.trained_model import ModelError, TrainedModel
from pipelines.checkpoint import CheckpointError
from pipelines.dataset import DatasetError
from pipelines.inference import InferenceConfig, NonFiniteLogitsError
from pipelines.network import NetworkError
from pipelines.precision import Numerics
from pipelines.submission import SubmissionError
from pipelines.weights import WeightsError


class InputError(ValueError):
    """An option or an input that cannot be used; the message says which and why."""


BAD_INPUT = (
    InputError,
    SubmissionError,
    CheckpointError,
    DatasetError,
    LedgerError,
    ModelError,
    NetworkError,
    NonFiniteLogitsError,
    PretrainedError,
    StudyError,
    UnreachableError,
    WeightsError,
)
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


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


def place(model: TrainedModel) -> Numerics:
    """Put the network where it computes best, in the precision it was trained in."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = model.experiment.training
    numerics = Numerics.choose(device, training.precision, training.memory_format)
    numerics.place(model.network)
    return numerics


def progress(console: Console) -> Progress:
    """A bar with the time left; on no terminal, nothing."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def run_command(work: Callable[[Console], int]) -> int:
    """`work`'s exit status; 2 with a sentence for bad input, 1 for an internal error, 130 when
    interrupted."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=FILE_WIDTH)
    try:
        return work(console)
    except BAD_INPUT as error:
        console.print(f"[bold red]error[/] {type(error).__name__}", highlight=False)
        for line in str(error).splitlines():
            say(console, f"  {line}")
        return EXIT_BAD_INPUT
    except OSError as error:
        if error.filename is None:
            raise
        console.print("[bold red]error[/]", highlight=False)
        say(console, f"  {error.filename}: {error.strerror}")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        say(console, "interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        console.print(f"[bold red]internal error[/] {type(error).__name__}", highlight=False)
        return EXIT_FAILED


def say(console: Console, message: str) -> None:
    """A plain line, however long."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


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
