"""Channel dropout whose choice follows from the sample, not from a global random state."""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LOW_32 = 0xFFFFFFFF


class ChannelDropout(nn.Module):
    """Drops whole channels with probability `rate` while training, and scales the rest.

    With sample keys set (`set_sample_keys`), channel `c` of a sample is dropped or not by a hash of
    (key, c, `layer`): the same sample meets the same choice in any batch and on any number of
    workers. Without keys it is `nn.Dropout2d`. `layer` tells the dropouts of one network apart.
    """

    def __init__(self, rate: float, layer: str) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout is {rate}; it must be at least 0 and below 1")
        self.rate = rate
        self.layer = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:4], "big")
        # Not a buffer: data-parallel training would overwrite every worker's keys with the first's.
        self.keys: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same.

        Raises:
            ValueError: the keys set are not one a sample.
        """
        if not self.training or self.rate == 0:
            return features
        if self.keys is None:
            return F.dropout2d(features, self.rate)
        samples, channels = features.shape[:2]
        if self.keys.shape != (samples,):
            raise ValueError(
                f"{samples} samples but sample keys of shape {tuple(self.keys.shape)}; "
                "call set_sample_keys with one key a sample before every training step"
            )
        bits = _hash(self.keys, channels, self.layer)
        keep = (bits >= round(self.rate * 2**32))[:, :, None, None]
        return torch.where(keep, features * (1 / (1 - self.rate)), 0)


def set_sample_keys(model: nn.Module, keys: Tensor | None) -> None:
    """Key every `ChannelDropout` of `model` by the samples of the coming batch.

    Args:
        model: any module, wrapped ones included.
        keys: int64 `(N,)` on the model's device, or None to draw from torch's generator again.
    """
    for module in model.modules():
        if isinstance(module, ChannelDropout):
            module.keys = keys


def _hash(keys: Tensor, channels: int, layer: int) -> Tensor:
    """Bits in [0, 2^32) for each of int64 keys `(N,)` and each channel: int64 `(N, channels)`."""
    low, high = keys & _LOW_32, (keys >> 32) & _LOW_32
    sample = _mix(_mix(low ^ layer) ^ high)
    channel = _mix(torch.arange(channels, device=keys.device))
    return _mix(sample[:, None] ^ channel[None, :])


def _mix(bits: Tensor) -> Tensor:
    """A permutation of 32-bit integers; factors below 2^31 keep the products within int64."""
    bits = bits + 0x1E3779B9 & _LOW_32
    bits = ((bits ^ (bits >> 16)) * 0x21F0AAAD) & _LOW_32
    bits = ((bits ^ (bits >> 15)) * 0x735A2D97) & _LOW_32
    return bits ^ (bits >> 15)
