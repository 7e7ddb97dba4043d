"""A network of few weights whose training steps last as long as a test wants, without CPU time."""

import time
from pathlib import Path

import torch
from torch import Tensor, nn


class PacedNetwork(nn.Module):
    """Maps images `(N, 3, H, W)` to logits `(N, classes, H, W)`.

    While the file `pace` exists, a training step lasts at least the seconds that it contains; a
    change of the file acts at once.
    """

    def __init__(self, classes: int, pace: str) -> None:
        super().__init__()
        self.pace = Path(pace)
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.classifier = nn.Conv2d(8, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        start = time.monotonic()
        # The command checks the network without gradients.
        training = self.training and torch.is_grad_enabled()
        while training and time.monotonic() - start < self._seconds():
            time.sleep(0.02)
        return self.classifier(self.features(images))

    def _seconds(self) -> float:
        try:
            return float(self.pace.read_text() or 0)
        except FileNotFoundError:
            return 0
