"""A custom augmentation; it draws from torch's global generator, which is seeded by sample."""

import torch
from torch import Tensor, nn


class Haze(nn.Module):
    """Blends images `(1, 3, H, W)` with white, by at most `most`."""

    def __init__(self, most: float = 0.3) -> None:
        super().__init__()
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        return torch.lerp(images, torch.ones_like(images), self.most * torch.rand(()).item())
