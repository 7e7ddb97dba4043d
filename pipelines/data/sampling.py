"""Which samples make up which batch: the same global batches for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.data.randomness import permutation, sample_keys

Indices = NDArray[np.int64]

# Tell permutations apart that follow from the same seed and epoch.
_CLASSES, _CENTROIDS, _MIXED = 1, 2, 3


@dataclass(frozen=True)
class Draws:
    """Samples in order, (n,), the keys their random parameters follow from, (n,), and the source
    pixel (row, column) that each crop has to show, (n, 2), -1 where any crop will do; all int64."""

    samples: Indices
    keys: Indices
    shown: Indices

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(self.samples[rows], self.keys[rows], self.shown[rows])


@dataclass(frozen=True)
class ClassUniform:
    """Draw a share of each epoch class by class instead of picture by picture.

    Each class that occurs gets the same number of draws; a draw is one of its centroids, int64
    (centroids, 4) with columns sample, class, row, column, and the crop has to show it. From
    "Improving semantic segmentation via video propagation and label relaxation" (Zhu et al., 2019).
    """

    share: float
    centroids: Indices


class GlobalBatches:
    """The batches of an epoch over `samples` samples, of which worker `rank` of `world` takes rows.

    An epoch has as many draws as there are samples: a permutation keyed by (seed, epoch), of which
    `class_uniform` replaces a share. The last batch is completed with the epoch's first draws, as
    further occurrences of their samples (other crops of them), so that every batch is full and no
    draw is left out. Worker r of W takes the rows from r*B//W to (r+1)*B//W of each global batch of
    B, also where W does not divide B.
    """

    def __init__(
        self,
        samples: int,
        seed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        class_uniform: ClassUniform | None = None,
    ) -> None:
        if samples < 1:
            raise ValueError(f"an epoch needs at least 1 sample, received {samples}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be within 0..{world - 1}, received {rank}")
        if batch < world:
            raise ValueError(
                f"a global batch of {batch} cannot be shared by {world} workers; "
                f"use a batch of at least {world} or at most {batch} workers"
            )
        self.samples = samples
        self.seed = seed
        self.batch = batch
        self.rank = rank
        self.world = world
        self.class_uniform = class_uniform

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-self.samples // self.batch)

    def epoch(self, epoch: int, first_step: int = 0) -> list[Draws]:
        """This worker's rows of every batch of `epoch` from `first_step` on."""
        draws = self._draws(epoch)
        low = self.rank * self.batch // self.world
        high = (self.rank + 1) * self.batch // self.world
        return [
            draws[step * self.batch + low : step * self.batch + high]
            for step in range(first_step, len(self))
        ]

    def _draws(self, epoch: int) -> Draws:
        """All draws of an epoch, of all workers, the last batch completed."""
        samples = permutation(self.samples, self.seed, epoch)
        shown = np.full((self.samples, 2), -1, np.int64)
        if self.class_uniform is not None:
            chosen = self._chosen_centroids(self.class_uniform, epoch)
            samples[: len(chosen)] = chosen[:, 0]
            shown[: len(chosen)] = chosen[:, 2:]
            mixed = permutation(self.samples, self.seed, epoch, _MIXED)
            samples, shown = samples[mixed], shown[mixed]
        rows = np.arange(len(self) * self.batch) % self.samples
        samples, shown = samples[rows], shown[rows]
        keys = sample_keys(self.seed, epoch, samples, _occurrences(samples))
        return Draws(samples, keys, shown)

    def _chosen_centroids(self, uniform: ClassUniform, epoch: int) -> Indices:
        """The epoch's class-uniform draws: rows of the centroids, classes in turn."""
        classes = np.unique(uniform.centroids[:, 1])
        count = round(uniform.share * self.samples)
        order = classes[permutation(len(classes), self.seed, epoch, _CLASSES)]
        chosen = np.empty((count, 4), np.int64)
        for turn, index in enumerate(order.tolist()):
            own = uniform.centroids[uniform.centroids[:, 1] == index]
            # A class with few centroids repeats them only when it has run out of new ones.
            shuffled = own[permutation(len(own), self.seed, epoch, _CENTROIDS, index)]
            places = np.arange(turn, count, len(order))
            chosen[places] = shuffled[np.arange(len(places)) % len(own)]
        return chosen


def _occurrences(samples: Indices) -> Indices:
    """How often each entry's value has occurred before it."""
    order = np.argsort(samples, kind="stable")
    ordered = samples[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, len(samples)))
    occurrences = np.empty_like(samples)
    occurrences[order] = np.arange(len(samples)) - np.repeat(starts, lengths)
    return occurrences
