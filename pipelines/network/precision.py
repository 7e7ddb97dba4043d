"""Chooses the best precision and memory format for a device, and applies them to a model."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipelines.network.config import MemoryFormat, Precision


def resolve_precision(precision: Precision, device_type: str) -> Literal["bf16", "fp32"]:
    """Resolve `auto`: bf16 if the device computes bf16 convolutions natively, otherwise fp32.

    Native support means AVX512-BF16 or AMX on a CPU, Ampere or later on CUDA. If this process does
    not see the GPU, `auto` resolves to bf16.
    """
    if precision != "auto":
        return precision
    if device_type == "cpu":
        return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32"
    return "bf16"


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
        """Resolve `auto`; bf16 implies channels-last, the faster format for its kernels."""
        resolved = resolve_precision(precision, device.type)
        if memory_format == "auto":
            channels_last = resolved == "bf16"
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
