"""An exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


class WeightAverage:
    """A copy of a network with averaged parameters and buffers.

    Each update moves every floating-point value towards the network's:
    `a <- d a + (1 - d) w` with `d = min(decay, n / (n + 9))` in the n-th update. Other values, such
    as counters and index tables, are copied. A value that several modules share is moved once.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        # The state dictionary has a shared value under each of its names, these have it once.
        once = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        self._names = [name for name in self.model.state_dict() if name in once]

    @torch.no_grad()
    def update(self, model: nn.Module, number: int) -> None:
        """Take the weights of `model` into the average. number: of this update, from 1."""
        decay = min(self.decay, number / (number + 9))
        current = model.state_dict()
        averages = self.model.state_dict()
        averaged, values = [], []
        for name in self._names:
            value = averages[name]
            if value.is_floating_point():
                averaged.append(value)
                values.append(current[name])
            else:
                value.copy_(current[name])
        torch._foreach_lerp_(averaged, values, 1 - decay)
