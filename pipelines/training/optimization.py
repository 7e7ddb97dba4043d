"""The optimizer and the learning rate schedule."""

import math

import torch
from torch import nn

from pipelines.training.config import TrainingConfig


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
