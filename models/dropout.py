"""Channel dropout keyed by sample, independent of a global random state."""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LOW_32 = 0xFFFFFFFF


class ChannelDropout(nn.Module):
    """Drops whole channels with probability `rate` during training, and rescales the others.

    After `set_sample_keys`, a hash of (key, channel, `layer`) decides whether a channel of a sample
    is dropped, so the decision does not depend on the batch or on the number of workers. Without
    keys, this is `nn.Dropout2d`.

    Args:
        rate: probability of dropping a channel.
        layer: name that distinguishes the dropout layers of a network.
    """

    def __init__(self, rate: float, layer: str) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout is {rate}; it must be at least 0 and below 1")
        self.rate = rate
        self.layer = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:4], "big")
        # Not a buffer: data-parallel training would broadcast the keys of rank 0 to all workers.
        self.keys: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape `(N, C, H, W)`.

        Raises:
            ValueError: the number of keys differs from the number of samples.
        """
        if not self.training or self.rate == 0:
            return features
        if self.keys is None:
            return F.dropout2d(features, self.rate)
        samples, channels = features.shape[:2]
        if self.keys.shape != (samples,):
            raise ValueError(
                f"{samples} samples but sample keys of shape {tuple(self.keys.shape)}; "
                "call set_sample_keys with one key per sample before every training step"
            )
        bits = _hash(self.keys, channels, self.layer)
        keep = (bits >= round(self.rate * 2**32))[:, :, None, None]
        return torch.where(keep, features * (1 / (1 - self.rate)), 0)


def set_sample_keys(model: nn.Module, keys: Tensor | None) -> None:
    """Set the sample keys of the next batch for every `ChannelDropout` of `model`.

    Args:
        model: any module, including a wrapped one.
        keys: int64 `(N,)` on the model's device, or None to draw from torch's generator.
    """
    for module in model.modules():
        if isinstance(module, ChannelDropout):
            module.keys = keys


def _hash(keys: Tensor, channels: int, layer: int) -> Tensor:
    """Hash int64 keys `(N,)` with each channel to values in [0, 2^32): int64 `(N, channels)`."""
    low, high = keys & _LOW_32, (keys >> 32) & _LOW_32
    sample = _mix(_mix(low ^ layer) ^ high)
    channel = _mix(torch.arange(channels, device=keys.device))
    return _mix(sample[:, None] ^ channel[None, :])


def _mix(bits: Tensor) -> Tensor:
    """Permute 32-bit integers; factors below 2^31 keep the products within int64."""
    bits = bits + 0x1E3779B9 & _LOW_32
    bits = ((bits ^ (bits >> 16)) * 0x21F0AAAD) & _LOW_32
    bits = ((bits ^ (bits >> 15)) * 0x735A2D97) & _LOW_32
    return bits ^ (bits >> 15)
