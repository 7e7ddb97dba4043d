"""Chooses precision and memory format for a device, applies them to a model, and fixes the meaning
of float32 on GPUs."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipelines.errors import UserError
from pipelines.network.config import MemoryFormat, Precision


class PrecisionError(UserError, ValueError):
    """A precision that the device does not compute natively."""


def has_native_bfloat16(device_type: str) -> bool:
    """Whether the device of this process computes bf16 convolutions natively.

    Native support means AVX512-BF16 or AMX on a CPU, compute capability 8.0 (Ampere) or later on
    CUDA. A GPU that this process does not see counts as native.
    """
    if device_type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_precision(precision: Precision, native_bfloat16: bool) -> Literal["bf16", "fp32"]:
    """Resolve `auto`: bf16 if the device computes bf16 convolutions natively, otherwise fp32."""
    if precision != "auto":
        return precision
    return "bf16" if native_bfloat16 else "fp32"


def check_precision(precision: Precision, device_type: str, native_bfloat16: bool) -> None:
    """Check that a GPU trains in `precision` without emulating it.

    Raises:
        PrecisionError: it would emulate bf16, many times slower than fp32.
    """
    if precision == "bf16" and device_type == "cuda" and not native_bfloat16:
        raise PrecisionError(
            "training.precision is bf16, but GPUs below compute capability 8.0 (such as T4 and "
            "V100) only emulate bfloat16; set it to fp32 or auto, or use other GPUs"
        )


def forbid_tf32() -> None:
    """Make float32 convolutions and matrix products on CUDA use float32, not TF32 as by default.

    TF32 keeps 10 bits of each factor's mantissa. Applies to the whole process.
    """
    backends: Any = torch.backends  # without type annotations for these settings
    # torch itself still reads the former name of the setting, and fails if the two disagree.
    backends.cudnn.allow_tf32 = False
    for operation in (backends.cuda.matmul, backends.cudnn.conv):
        operation.fp32_precision = "ieee"


@dataclass(frozen=True)
class Numerics:
    """The device, resolved precision and memory format of a model's computations."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    channels_last: bool

    @staticmethod
    def choose(
        device: torch.device, precision: Precision = "auto", memory_format: MemoryFormat = "auto"
    ) -> "Numerics":
        """Resolve `auto`: channels-last on a CPU and in bf16, where it makes convolutions faster.

        On CUDA, also forbids TF32 in this process.
        """
        if device.type == "cuda":
            forbid_tf32()
        resolved = resolve_precision(precision, has_native_bfloat16(device.type))
        if memory_format == "auto":
            channels_last = resolved == "bf16" or device.type == "cpu"
        else:
            channels_last = memory_format == "channels-last"
        return Numerics(device, resolved, channels_last)

    def to_device(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, with its convolution weights in the memory format."""
        if self.channels_last:
            return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(self.device)

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Return images, (batch, 3, height, width), in the memory format of the model."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images.contiguous()

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which forward pass and loss run."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )
