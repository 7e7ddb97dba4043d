"""How the parameters are updated: the recipe's settings, the optimizer, the learning rate."""

from dataclasses import dataclass, field

import torch
from torch import nn

from models import LossConfig
from pipelines.precision import MemoryFormat, Precision


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe, by default that of the paper for Cityscapes (section 4.1).

    epochs: passes over the training split.
    batch: images in one step, over all workers together.
    learning_rate, momentum, weight_decay: of SGD; the decay is on every parameter.
    power: of the poly schedule.
    backbone_weights: path or URI of published weights that the backbone starts from.
    precision, memory_format: how the network is computed; `auto` asks the device.
    """

    __pydantic_config__ = {"extra": "forbid"}

    epochs: int = 300
    batch: int = 8
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 1.0
    loss: LossConfig = field(default_factory=LossConfig)
    backbone_weights: str | None = None
    precision: Precision = "auto"
    memory_format: MemoryFormat = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, received {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), received {self.momentum}")
        for name in ("weight_decay", "power"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, received {getattr(self, name)}")


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
    """SGD with momentum and weight decay on every parameter of `model` (section 4.1)."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def poly_learning_rate(initial: float, epoch: int, epochs: int, power: float) -> float:
    """`initial * (1 - epoch / epochs) ** power`, `epoch` counted from 0: never zero.

    Source: the paper's section 4.1 (power 1.0). The first epoch runs at `initial`, the last at
    `initial / epochs ** power`.
    """
    if not 0 <= epoch < epochs:
        raise ValueError(f"epoch must be in [0, {epochs}), received {epoch}")
    return initial * (1 - epoch / epochs) ** power
