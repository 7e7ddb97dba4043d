"""Exports a network as a `torch.export` program and as ONNX, for images of every size or of one.

Input `images`: float32 `(batch, channels, height, width)`, normalized. Output `logits`: float32
`(batch, classes, height, width)`.
"""

import copy
import io
import json
import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from models import split_output
from models.resampling import resize
from pipelines import wording
from pipelines.errors import UserError

METADATA = "metadata.json"  # the extra file of a `torch.export` archive
_INPUT, _OUTPUT = "images", "logits"
_AXES = {0: "batch", 2: "height", 3: "width"}
# The sizes of the example are unequal, and no multiple of each other: torch would otherwise export
# equal sizes as one.
_BATCH, _HEIGHT, _WIDTH = 2, 96, 160
ONE_SIZE = (
    "export it for images of one size with --size HxW, or remove Python conditions on sizes from "
    "its forward, if the network is yours"
)
# Processor seconds for a network of all sizes; most take less than 30. Conditions on the size, such
# as the padding to windows of Swin, can keep torch busy for hours.
PATIENCE = 90.0


class ExportError(UserError, RuntimeError):
    """A network cannot be exported; the message says why."""


def missing_package(name: str) -> ExportError:
    """Return the error of a package that ONNX files need."""
    return ExportError(
        f"ONNX needs the package {name}; install it with pip install "
        "'segmentation-orchestrator[onnx]', or use --format torch"
    )


class _WholeImage(nn.Module):
    """Returns a network's main logits at the size of the images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return resize(split_output(self.network(images))[0].float(), images)


def _with_plain_attention(network: nn.Module) -> nn.Module:
    """Return a copy in which models of transformers compute attention by matrix products: ONNX has
    no equal for all memory layouts of the fused one."""
    network = copy.deepcopy(network)
    for module in network.modules():
        choose: Any = getattr(module, "set_attn_implementation", None)
        if choose is not None:
            choose("eager")
    return network


def whole_image_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits that an exported network computes, with torch."""
    with torch.no_grad():
        return _WholeImage(network)(images)


class _TooSlow(BaseException):
    """The processor time is used up; torch must not handle it as an error of the network."""


@contextmanager
def _within(seconds: float | None) -> Iterator[None]:
    """Raise _TooSlow after this processor time; never for None, or outside the main thread."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    expired = False

    def stop(*_: object) -> None:
        nonlocal expired
        expired = True
        raise _TooSlow

    previous = signal.signal(signal.SIGPROF, stop)
    # Again every second, because Python ignores an exception in a finalizer.
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    except BaseException:
        if expired:  # also if torch, interrupted, has raised an error of its own
            raise _TooSlow from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def export_program(
    network: nn.Module, channels: int = 3, size: tuple[int, int] | None = None
) -> ExportedProgram:
    """Export a network in evaluation mode on the CPU. Raises ExportError.

    channels: of the images.
    size: height and width of the one image that the program takes; None for batches and images of
        every size.
    """
    batch, (height, width) = (1, size) if size else (_BATCH, (_HEIGHT, _WIDTH))
    example = torch.zeros(batch, channels, height, width)
    dynamic = None if size else (dict.fromkeys(_AXES, torch.export.Dim.DYNAMIC),)
    try:
        limit = _within(None if size else PATIENCE)
        with limit, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own modules
            return torch.export.export(
                _WholeImage(_with_plain_attention(network)).eval(),
                (example,),
                dynamic_shapes=dynamic,
            )
    except _TooSlow:
        raise _too_slow("torch.export") from None
    except Exception as error:  # torch has many classes for this
        if size:
            raise ExportError(
                f"torch.export cannot export this network for {height} x {width} pixels "
                f"({wording.cause(error)}); choose a larger --size, or remove Python conditions on "
                "values from its forward"
            ) from error
        raise ExportError(
            f"torch.export cannot export this network for all sizes ({wording.cause(error)}); "
            f"{ONE_SIZE}"
        ) from error


def save_program(program: ExportedProgram, file: Path, metadata: Mapping[str, Any]) -> None:
    """Write a `torch.export` archive; `torch.export.load(file, extra_files={METADATA: ""})` returns
    the program and fills in the metadata."""
    # Not to the file itself, because torch aborts the process if the disk is full.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    file.write_bytes(buffer.getvalue())


def save_onnx(program: ExportedProgram, file: Path, metadata: Mapping[str, Any]) -> None:
    """Write an ONNX file. Values of `metadata` that are not text are written as JSON.

    Raises ExportError if the packages are missing or ONNX has no such operator.
    """
    try:
        import onnxscript  # noqa: F401  torch imports it
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name)) from None
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # without torchvision, it warns about operators of torchvision
    limit = _within(PATIENCE if program.range_constraints else None)
    try:
        with limit, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx = torch.onnx.export(
                program,
                program.example_inputs[0],
                dynamo=True,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                verbose=False,
            )
    except _TooSlow:
        raise _too_slow("torch.onnx") from None
    except Exception as error:
        raise ExportError(
            f"torch.onnx cannot export this network ({wording.cause(error)}); use --format torch"
        ) from error
    finally:
        logger.setLevel(level)
    assert onnx is not None, "dynamo is used"
    _name_axes(onnx.model)
    onnx.model.metadata_props.update(
        {key: each if isinstance(each, str) else json.dumps(each) for key, each in metadata.items()}
    )
    onnx.save(str(file))


def _name_axes(model: Any) -> None:
    """Name the axes of any size of all tensors after those of the input, such as `height`.

    Axes without a name stay without: onnxruntime takes axes of one name for equally long.
    """
    import onnx_ir

    (images,) = model.graph.inputs
    names = {str(images.shape[axis]): name for axis, name in _AXES.items()}
    outputs = [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in (images, *outputs):
        if value.shape is not None:
            value.shape = onnx_ir.Shape(
                size
                if isinstance(size, int) or size.value is None
                else names.get(str(size), str(size))
                for size in value.shape
            )


def _too_slow(program: str) -> ExportError:
    return ExportError(
        f"{program} did not finish this network for all sizes in {PATIENCE:g} seconds of "
        f"processor time; {ONE_SIZE}"
    )
