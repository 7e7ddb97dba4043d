"""In which precision and memory format a device computes best, and running a model that way."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["auto", "bf16", "fp32"]
MemoryFormat = Literal["auto", "channels-last", "contiguous"]


def resolve_precision(precision: Precision, device_type: str) -> Literal["bf16", "fp32"]:
    """What `auto` means on a device: bf16 where its convolutions are computed in it natively.

    On CPU that is where oneDNN has AVX512-BF16 or AMX; on CUDA, Ampere and later. For a GPU that is
    not in this process, `auto` is bf16.
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
    """How one model is computed: the device, the resolved precision and the memory format."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    channels_last: bool

    @staticmethod
    def choose(
        device: torch.device, precision: Precision = "auto", memory_format: MemoryFormat = "auto"
    ) -> "Numerics":
        """Resolve `auto`: channels-last goes with bf16, whose kernels want it on every device."""
        resolved = resolve_precision(precision, device.type)
        if memory_format == "auto":
            channels_last = resolved == "bf16"
        else:
            channels_last = memory_format == "channels-last"
        return Numerics(device, resolved, channels_last)

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, its convolution weights in the memory format."""
        if self.channels_last:
            return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(self.device)

    def arrange(self, images: Tensor) -> Tensor:
        """`images (batch, 3, height, width)` in the memory format the model computes in."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images.contiguous()

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which forward and loss run."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )
