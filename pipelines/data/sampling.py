"""Assigns samples to batches; the global batches do not depend on the number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.data.randomness import hash_integers, permutation, sample_keys
from pipelines.errors import UserError

Indices = NDArray[np.int64]

# Distinguish permutations with the same seed and epoch.
_CLASSES, _CENTROIDS, _MIXED = 1, 2, 3
# Distinguishes the key of a draw's partner from other hashes of the draw's key.
_PARTNER = -1


class BatchSizeError(UserError, ValueError):
    """A global batch has fewer samples than there are workers."""


@dataclass(frozen=True)
class Draws:
    """A sequence of n draws; all arrays are int64.

    samples: (n,) indices. keys: (n,) keys of the samples' random parameters. contained: (n, 2)
    source pixel (row, column) that each crop must contain, -1 if the crop is free.
    """

    samples: Indices
    keys: Indices
    contained: Indices

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(self.samples[rows], self.keys[rows], self.contained[rows])


def partners(draws: Draws, samples: int) -> Draws:
    """Return the draw that each of `draws` is mixed with, which depends only on its key.

    samples: number of samples to choose from.
    """
    keys = hash_integers(draws.keys, _PARTNER)
    chosen = (keys % np.uint64(samples)).astype(np.int64)
    return Draws(chosen, keys.view(np.int64), np.full((len(keys), 2), -1, np.int64))


@dataclass(frozen=True)
class ClassUniform:
    """Draw a fraction of each epoch uniformly over classes instead of images.

    Every class that occurs gets the same number of draws. A draw is one of the class's centroids,
    which the crop must contain. Source: "Improving semantic segmentation via video propagation and
    label relaxation" (Zhu et al., 2019).

    share: fraction of the epoch, 0 to 1. centroids: int64 (centroids, 4), columns sample, class,
    row, column.
    """

    share: float
    centroids: Indices


class GlobalBatches:
    """The global batches of an epoch over `samples` samples, and the rows of each for one worker.

    An epoch has as many draws as samples: a permutation keyed by (seed, epoch), of which
    `class_uniform` replaces a fraction. The last step, of `micro_batches` batches, is filled up
    with the epoch's first draws, as further occurrences (other crops) of their samples, so that
    every step is full and no draw is skipped. Of each global batch of B, worker r of W takes rows
    r*B//W to (r+1)*B//W; W need not divide B.
    """

    def __init__(
        self,
        samples: int,
        seed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        class_uniform: ClassUniform | None = None,
        micro_batches: int = 1,
    ) -> None:
        if samples < 1:
            raise ValueError(f"an epoch needs at least 1 sample, received {samples}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be within 0..{world - 1}, received {rank}")
        if batch < world:
            raise BatchSizeError(
                f"a global batch of {batch} cannot be shared by {world} workers; "
                f"use a batch of at least {world}, or at most {batch} workers"
            )
        self.samples = samples
        self.seed = seed
        self.batch = batch
        self.rank = rank
        self.world = world
        self.class_uniform = class_uniform
        self.micro_batches = micro_batches

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.samples // (self.batch * self.micro_batches)) * self.micro_batches

    def epoch(self, epoch: int, first_step: int = 0) -> list[Draws]:
        """Return this worker's rows of every batch of `epoch`, starting at `first_step`."""
        draws = self._draws(epoch)
        low = self.rank * self.batch // self.world
        high = (self.rank + 1) * self.batch // self.world
        return [
            draws[index * self.batch + low : index * self.batch + high]
            for index in range(first_step * self.micro_batches, len(self))
        ]

    def _draws(self, epoch: int) -> Draws:
        """Return the draws of an epoch for all workers, with the last step filled up."""
        samples = permutation(self.samples, self.seed, epoch)
        contained = np.full((self.samples, 2), -1, np.int64)
        if self.class_uniform is not None:
            chosen = self._chosen_centroids(self.class_uniform, epoch)
            samples[: len(chosen)] = chosen[:, 0]
            contained[: len(chosen)] = chosen[:, 2:]
            mixed = permutation(self.samples, self.seed, epoch, _MIXED)
            samples, contained = samples[mixed], contained[mixed]
        rows = np.arange(len(self) * self.batch) % self.samples
        samples, contained = samples[rows], contained[rows]
        keys = sample_keys(self.seed, epoch, samples, _occurrences(samples))
        return Draws(samples, keys, contained)

    def _chosen_centroids(self, uniform: ClassUniform, epoch: int) -> Indices:
        """Return the epoch's class-uniform draws, (n, 4) centroids, cycling through the classes."""
        classes = np.unique(uniform.centroids[:, 1])
        count = round(uniform.share * self.samples)
        order = classes[permutation(len(classes), self.seed, epoch, _CLASSES)]
        chosen = np.empty((count, 4), np.int64)
        for turn, index in enumerate(order.tolist()):
            candidates = uniform.centroids[uniform.centroids[:, 1] == index]
            # All centroids of a class are used before any is repeated.
            shuffled = candidates[permutation(len(candidates), self.seed, epoch, _CENTROIDS, index)]
            positions = np.arange(turn, count, len(order))
            chosen[positions] = shuffled[np.arange(len(positions)) % len(candidates)]
        return chosen


def _occurrences(samples: Indices) -> Indices:
    """Return, for each entry, how often its value occurs before it."""
    order = np.argsort(samples, kind="stable")
    ordered = samples[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, len(samples)))
    occurrences = np.empty_like(samples)
    occurrences[order] = np.arange(len(samples)) - np.repeat(starts, lengths)
    return occurrences
