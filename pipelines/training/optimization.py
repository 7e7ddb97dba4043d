"""Training settings, the optimizer and the learning rate schedule."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from models import LossConfig
from pipelines.network.precision import MemoryFormat, Precision


@dataclass(frozen=True)
class TrainingConfig:
    """Training settings; the defaults are the paper's for Cityscapes (section 4.1).

    epochs: passes over the training split.
    batch: images per step, over all workers.
    accumulation: number of parts in which a batch is processed, to save memory. The loss is the
        mean over the pixels of all parts, but batch norm normalizes each part by itself, which
        affects the result. Above 1, a step takes an additional forward pass.
    learning_rate, momentum, weight_decay: of SGD; weight decay applies to every parameter.
    schedule, power: learning rate schedule, `poly` with this power or `cosine`.
    schedule_by: whether the learning rate changes every `epoch`, as in the paper, or `iteration`.
    warmup_steps: number of first steps in which the learning rate rises linearly to the schedule's.
    gradient_clip: maximum norm of all gradients together; no clipping if omitted.
    init: path or URI of a checkpoint, a model directory or a file of weights to initialize the
        whole network; in a study also `runs:/ID/best` or `models:/NAME@ALIAS`. A trial is
        identified by the content of the weights, not by their location.
    init_skip: patterns of tensor names (`head.*`) that `init` does not load, such as the classifier
        of a model with other classes.
    backbone_weights: path or URI of published weights to initialize the backbone.
    precision, memory_format: numerical format of the network; `auto` chooses by device.
    compile: compile the network with `torch.compile`.
    deterministic: use deterministic algorithms only, so that a training on a GPU can be repeated
        and resumed bit for bit with the same versions and number of workers; it trains slower. A
        network of your own with an operation that has no deterministic algorithm fails. On CPUs,
        trainings are deterministic in any case.

    Raises:
        ValueError: a value is not valid; the message has the field, the value and the valid range.
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
    deterministic: bool = False

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
            raise ValueError("init_skip is set without init; set init or remove init_skip")
        if self.init is not None and self.backbone_weights is not None:
            raise ValueError(
                "init and backbone_weights must not both be set; init includes the backbone"
            )


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
    """Return SGD with momentum and weight decay on every parameter of `model` (section 4.1)."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(config: TrainingConfig, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate at `step` of `epoch`, both counted from 0; it is never 0.

    For progress `p` in [0, 1), in whole epochs or in steps: poly `r (1 - p)^power` (section 4.1 of
    the paper: by epoch, power 1), cosine `r (1 + cos(pi p)) / 2`. Warm-up multiplies the rate by
    `(n + 1) / (warmup_steps + 1)` at step `n` of the training. `steps`: steps per epoch.
    """
    global_step = epoch * steps + step
    if not (0 <= epoch < config.epochs and 0 <= step < steps):
        raise ValueError(f"epoch {epoch} and step {step} are outside the training")
    if config.schedule_by == "epoch":
        progress = epoch / config.epochs
    else:
        progress = global_step / (config.epochs * steps)
    if config.schedule == "poly":
        factor = (1 - progress) ** config.power
    else:
        factor = (1 + math.cos(math.pi * progress)) / 2
    if global_step < config.warmup_steps:
        factor *= (global_step + 1) / (config.warmup_steps + 1)
    return config.learning_rate * factor
