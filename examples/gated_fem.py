"""A custom FEM: features from the finer level pass a gate that is computed from the target."""

import torch
from torch import Tensor, nn

from models import FEM, FEMOptions, register_fem


@register_fem("gated-detail")
class GatedDetailFEM(FEM):
    """`Ft' = Θ(Ft + σ(g(Ft)) · Φ(cat(E(Ft), down(E(Fa)))))`, `g` a 1x1 convolution."""

    auxiliary = "finer"

    def __init__(self, channels: int, options: FEMOptions) -> None:
        super().__init__(channels, options)
        self.gate = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(target))
        return self.theta(target + gate * self.oper(target, auxiliary))
