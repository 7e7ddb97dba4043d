"""Which samples make up which batch: the same global batches for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.randomness import permutation, sample_keys


@dataclass(frozen=True)
class Draws:
    """Samples in order, with the keys their random parameters follow from; int64 (n,) each."""

    samples: NDArray[np.int64]
    keys: NDArray[np.int64]


@dataclass(frozen=True)
class GlobalBatches:
    """The batches of an epoch over `samples` samples, of which worker `rank` of `world` takes rows.

    An epoch is a permutation keyed by (seed, epoch). Its last batch is completed with the first
    samples of the same permutation, as their second occurrence (another crop of them), so that
    every batch is full and no sample is left out. Worker r of W takes the rows from r*B//W to
    (r+1)*B//W of each global batch of B, also where W does not divide B.
    """

    samples: int
    seed: int
    batch: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"an epoch needs at least 1 sample, received {self.samples}")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be within 0..{self.world - 1}, received {self.rank}")
        if self.batch < self.world:
            raise ValueError(
                f"a global batch of {self.batch} cannot be shared by {self.world} workers; "
                f"use a batch of at least {self.world} or at most {self.batch} workers"
            )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-self.samples // self.batch)

    def step(self, epoch: int, step: int) -> Draws:
        """This worker's rows of batch `step` of `epoch`."""
        return self._draws(permutation(self.samples, self.seed, epoch), epoch, step)

    def epoch(self, epoch: int, first_step: int = 0) -> list[Draws]:
        """This worker's rows of every batch of `epoch` from `first_step` on."""
        order = permutation(self.samples, self.seed, epoch)
        return [self._draws(order, epoch, step) for step in range(first_step, len(self))]

    def _draws(self, order: NDArray[np.int64], epoch: int, step: int) -> Draws:
        first = step * self.batch + self.rank * self.batch // self.world
        last = step * self.batch + (self.rank + 1) * self.batch // self.world
        positions = np.arange(first, last)
        samples = order[positions % self.samples]
        occurrences = positions // self.samples
        return Draws(samples, sample_keys(self.seed, epoch, samples, occurrences))
