"""Learning rate schedules: the factor of the learning rate at each point of a training.

A schedule is an object that is called with the progress of the training, in [0, 1), and returns
the factor, at least 0. It has no state, so a resumed training needs none.
"""

import math
from itertools import pairwise


class Poly:
    """`(1 - p)^power` (section 4.1 of the paper)."""

    def __init__(self, power: float) -> None:
        self.power = power

    def __call__(self, progress: float) -> float:
        return float((1 - progress) ** self.power)


class Cosine:
    """`(1 + cos(pi p)) / 2` (Loshchilov and Hutter, ICLR 2017, without restarts)."""

    def __call__(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


class OneCycle:
    """One cosine up and one down (Smith and Topin, 2019); arguments as of torch's `OneCycleLR`.

    Rises from `1 / div_factor` to 1 in the first `pct_start` of the training, then falls to
    `1 / (div_factor final_div_factor)`.
    """

    def __init__(
        self, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
    ) -> None:
        if not 0 < pct_start < 1:
            raise ValueError(f"pct_start must be between 0 and 1, received {pct_start}")
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not value >= 1:
                raise ValueError(f"{name} must be at least 1, received {value}")
        self.pct_start = pct_start
        self.first = 1 / div_factor
        self.last = self.first / final_div_factor

    def __call__(self, progress: float) -> float:
        if progress < self.pct_start:
            return _cosine(self.first, 1.0, progress / self.pct_start)
        return _cosine(1.0, self.last, (progress - self.pct_start) / (1 - self.pct_start))


class Step:
    """Multiplies the rate by `gamma` at each of `milestones`, fractions of the training."""

    def __init__(self, milestones: list[float], gamma: float = 0.1) -> None:
        ordered = all(earlier < later for earlier, later in pairwise(milestones))
        if not (milestones and ordered and milestones[0] > 0 and milestones[-1] < 1):
            raise ValueError(
                "milestones must be increasing fractions of the training, such as [0.6, 0.9], "
                f"received {milestones}"
            )
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must be above 0 and at most 1, received {gamma}")
        self.milestones = milestones
        self.gamma = gamma

    def __call__(self, progress: float) -> float:
        return float(self.gamma ** sum(progress >= each for each in self.milestones))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
