"""How the parameters are updated: the recipe's settings, the optimizer, the learning rate."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from models import LossConfig
from pipelines.network.precision import MemoryFormat, Precision


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe, by default that of the paper for Cityscapes (section 4.1).

    epochs: passes over the training split.
    batch: images in one step, over all workers together.
    accumulation: parts that a batch is computed in, one after the other, for want of memory. Batch
        norm and mining see one part at a time, so it is part of what decides a result.
    learning_rate, momentum, weight_decay: of SGD; the decay is on every parameter.
    schedule, power: `poly` with its power, or `cosine`.
    schedule_by: whether the learning rate changes every `epoch`, as the paper's, or `iteration`.
    warmup_steps: steps over which the rate rises linearly from its first share to the schedule's.
    gradient_clip: largest norm of all gradients together; no clipping when left out.
    init: path or URI of a checkpoint, a model directory or a file of weights that the whole network
        starts from; in a study also `runs:/ID/best` or `models:/NAME@ALIAS`. A trial is known by
        the content, not by where it lies.
    init_skip: patterns of tensor names (`head.*`) that `init` leaves at their own initial values,
        such as the classifier of a model with other classes.
    backbone_weights: path or URI of published weights that the backbone starts from.
    precision, memory_format: how the network is computed; `auto` asks the device.
    compile: run the network through `torch.compile`.

    Raises ValueError with the field's name, what was received and what would work.
    """

    __pydantic_config__ = {"extra": "forbid"}

    epochs: int = 300
    batch: int = 8
    accumulation: int = 1
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["poly", "cosine"] = "poly"
    power: float = 1.0
    schedule_by: Literal["epoch", "iteration"] = "epoch"
    warmup_steps: int = 0
    gradient_clip: float | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    init: str | None = None
    init_skip: tuple[str, ...] = ()
    backbone_weights: str | None = None
    precision: Precision = "auto"
    memory_format: MemoryFormat = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.batch % self.accumulation:
            raise ValueError(
                f"accumulation must divide batch, received {self.accumulation} and {self.batch}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, received {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), received {self.momentum}")
        for name in ("weight_decay", "power", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, received {getattr(self, name)}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip must be above 0, received {self.gradient_clip}")
        if self.init_skip and self.init is None:
            raise ValueError("init_skip names tensors, but there is no init to leave them out of")
        if self.init is not None and self.backbone_weights is not None:
            raise ValueError("init and backbone_weights must not both be set: init has a backbone")


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
    """SGD with momentum and weight decay on every parameter of `model` (section 4.1)."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(config: TrainingConfig, epoch: int, step: int, steps: int) -> float:
    """The rate of `step` in `epoch`, both counted from 0, with `steps` to an epoch: never zero.

    With progress `p` in [0, 1), counted in whole epochs or in steps: poly `r (1 - p)^power` (the
    paper's section 4.1, by epoch, power 1), cosine `r (1 + cos(pi p)) / 2`. Warm-up multiplies by
    `(n + 1) / (warmup_steps + 1)` in step `n` of the training.
    """
    taken = epoch * steps + step
    if not (0 <= epoch < config.epochs and 0 <= step < steps):
        raise ValueError(f"epoch {epoch} and step {step} lie outside the training")
    if config.schedule_by == "epoch":
        progress = epoch / config.epochs
    else:
        progress = taken / (config.epochs * steps)
    if config.schedule == "poly":
        factor = (1 - progress) ** config.power
    else:
        factor = (1 + math.cos(math.pi * progress)) / 2
    if taken < config.warmup_steps:
        factor *= (taken + 1) / (config.warmup_steps + 1)
    return config.learning_rate * factor
