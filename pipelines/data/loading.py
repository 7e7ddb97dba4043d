"""Batches for training and evaluation, prefetched by threads.

Decoding and copying release the GIL, so threads suffice: nothing is pickled, and an error in a
sample is raised in the loop with the sample's name.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.data.batches import EvaluationBatch, SourceBatch
from pipelines.data.config import DataConfig
from pipelines.data.dataset import IGNORE_INDEX, DatasetError, Samples
from pipelines.data.geometry import CropPlan, canvas_size, plan_crop
from pipelines.data.image_format import ImageFormat, Pixels
from pipelines.data.prefetch import prefetch
from pipelines.data.randomness import uniform_classes, uniform_streams
from pipelines.data.sampling import ClassUniform, Draws, GlobalBatches, partners


class BufferPool:
    """Buffers for batches, reused as soon as nothing refers to the previous batch.

    Allocating new memory takes several times as long as filling it, because the kernel clears every
    page. Pinned memory comes from torch, which reuses it when the GPU has finished with it.
    """

    def __init__(self, pin: bool) -> None:
        self._pin = pin
        self._free: dict[tuple[tuple[int, ...], np.dtype[Any]], list[NDArray[Any]]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        """Return an uninitialized tensor of `dtype`, uint8 or uint16."""
        if self._pin:
            kind = torch.uint8 if dtype == np.uint8 else torch.uint16
            return torch.empty(shape, dtype=kind, pin_memory=True)
        free = self._free.setdefault((shape, dtype), [])
        try:
            buffer = free.pop()
        except IndexError:
            buffer = np.empty(shape, dtype)
        # The tensor and all its views keep `view` alive; then the buffer returns to the pool.
        view = buffer.view()
        weakref.finalize(view, free.append, buffer).atexit = False
        return torch.from_numpy(view)


class TrainingBatches:
    """The training batches of one worker.

    Args:
        split: the samples.
        data: crop and augmentation, which decide how much of each image is loaded.
        seed: key, together with the epoch, of the order and the augmentation.
        global_batch: samples per batch over all workers.
        rank, world: rank of this worker and number of workers.
        threads, ahead: number of loading threads and of prefetched batches.
        pin: return batches in pinned memory, for a GPU.
        micro_batches: batches per step.

    Raises:
        BatchSizeError: a global batch has fewer samples than there are workers.
        DatasetError: `class_uniform` is set, but the split has no labels.
    """

    def __init__(
        self,
        split: Samples,
        data: DataConfig,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        ahead: int = 4,
        pin: bool = False,
        micro_batches: int = 1,
    ) -> None:
        uniform = ClassUniform(data.class_uniform, split.centroids) if data.class_uniform else None
        if uniform is not None and not len(uniform.centroids):
            raise DatasetError("class_uniform needs labels, but no sample of the split has one")
        self.batches = GlobalBatches(
            len(split), seed, global_batch, rank, world, uniform, micro_batches
        )
        self._split = split
        self._data = data
        self._threads = threads
        self._ahead = ahead
        self._pin = pin
        self._buffers = BufferPool(pin)
        smallest_scale = data.augmentation.scale[0]
        self._canvas = (
            canvas_size(split.heights, data.crop[0], smallest_scale),
            canvas_size(split.widths, data.crop[1], smallest_scale),
        )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[SourceBatch]:
        """Yield this worker's batches of `epoch`, starting at `first_step`.

        Raises:
            DatasetError: a sample cannot be read; the message names it.
        """
        draws = self.batches.epoch(epoch, first_step)
        return prefetch(self.load, draws, self._threads, self._ahead)

    def load(self, draws: Draws) -> SourceBatch:
        """Read the windows of one batch, and those of its partners if they are mixed."""
        batch = self._load(draws)
        augmentation = self._data.augmentation
        if not augmentation.mixes:
            return batch
        batch = replace(batch, partners=self._load(partners(draws, len(self._split))))
        if not augmentation.classmix:
            return batch
        class_draws = torch.from_numpy(uniform_classes(draws.keys, IGNORE_INDEX))
        return replace(batch, class_draws=self._pinned(class_draws))

    def _load(self, draws: Draws) -> SourceBatch:
        count, (height, width) = len(draws.samples), self._canvas
        # Channels last, like decoded images, so that a window is copied row by row.
        image_format = self._split.image_format
        shape = (count, height, width, image_format.channels)
        windows = self._buffers.take(shape, image_format.dtype)
        labels = self._buffers.take((count, height, width), np.dtype(np.uint8))
        plans: list[CropPlan] = []
        for row in range(count):
            image, label = _read(self._split, int(draws.samples[row]))
            plan = self._plan(label.shape, draws, row)
            rows = slice(plan.rows.start, plan.rows.stop)
            columns = slice(plan.columns.start, plan.columns.stop)
            _paste(windows[row].numpy(), image[rows, columns])
            _repeat_edge(windows[row].numpy(), *label[rows, columns].shape)
            _paste(labels[row].numpy(), label[rows, columns])
            plans.append(plan)
        return SourceBatch(
            windows=windows.permute(0, 3, 1, 2),
            labels=labels,
            geometry=self._pinned(
                torch.tensor([(plan.rows.numbers, plan.columns.numbers) for plan in plans])
            ),
            flips=self._pinned(torch.tensor([plan.flip for plan in plans])),
            sample_keys=self._pinned(torch.from_numpy(draws.keys)),
            draws=self._pinned(torch.from_numpy(uniform_streams(draws.keys))),
            host_keys=tuple(draws.keys.tolist()),
            identifiers=tuple(self._split.identifiers[sample] for sample in draws.samples),
        )

    def _pinned(self, values: Tensor) -> Tensor:
        """Return `values` in pinned memory for a GPU; other copies to it block the host."""
        return values.pin_memory() if self._pin else values

    def _plan(self, size: tuple[int, ...], draws: Draws, row: int) -> CropPlan:
        augmentation = self._data.augmentation
        height, width = size
        contained_row, contained_column = draws.contained[row].tolist()
        return plan_crop(
            (height, width),
            self._data.crop,
            augmentation.scale,
            augmentation.flip,
            key=int(draws.keys[row]),
            contain=None if contained_row < 0 else (contained_row, contained_column),
        )


class EvaluationBatches:
    """Batches of the whole images of a split, each image exactly once over all workers.

    All images of a batch have the same size.

    Args:
        split: the samples.
        batch: maximum number of images in a worker's batch.
        rank, world: rank of this worker and number of workers.
        threads, ahead: number of loading threads and of prefetched batches.
    """

    def __init__(
        self,
        split: Samples,
        batch: int,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        ahead: int = 2,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, received {batch}")
        self._split = split
        self._threads = threads
        self._ahead = ahead
        by_size: dict[tuple[int, int], list[int]] = {}
        sizes = zip(split.heights.tolist(), split.widths.tolist(), strict=True)
        for index, size in enumerate(sizes):
            by_size.setdefault(size, []).append(index)
        batches = [
            indices[start : start + batch]
            for indices in by_size.values()
            for start in range(0, len(indices), batch)
        ]
        self._batches = batches[rank::world]

    def __len__(self) -> int:
        """Return the number of batches of this worker."""
        return len(self._batches)

    @property
    def image_format(self) -> ImageFormat:
        """The format of the images in their data set."""
        return self._split.image_format

    @property
    def identifiers(self) -> list[str]:
        """Names of all samples of the split, in the order of `EvaluationBatch.indices`."""
        return self._split.identifiers

    def __iter__(self) -> Iterator[EvaluationBatch]:
        return prefetch(self._load, self._batches, self._threads, self._ahead)

    def _load(self, indices: list[int]) -> EvaluationBatch:
        images, labels = zip(*(_read(self._split, index) for index in indices), strict=True)
        return EvaluationBatch(
            images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            labels=torch.from_numpy(np.stack(labels)),
            indices=torch.tensor(indices),
            identifiers=tuple(self._split.identifiers[index] for index in indices),
        )


def _read(split: Samples, index: int) -> tuple[Pixels, NDArray[np.uint8]]:
    """Return a sample's image and label. Turns any error into a DatasetError with its name."""
    try:
        return split.read(index)
    except (DatasetError, MemoryError):
        raise
    except Exception as error:
        raise DatasetError(
            f"sample {split.identifiers[index]!r} cannot be read ({type(error).__name__}: {error})"
        ) from error


def _paste(canvas: Pixels, window: Pixels) -> None:
    canvas[: window.shape[0], : window.shape[1]] = window


def _repeat_edge(canvas: Pixels, height: int, width: int) -> None:
    """Repeat the last row and column of a window in the canvas's corner, where there is room.

    `grid_sample` rounds positions, so a pixel at the window's edge also gets a tiny share of its
    neighbor outside, which would otherwise be what an earlier batch left in the buffer.
    """
    if height < canvas.shape[0]:
        canvas[height, :width] = canvas[height - 1, :width]
        height += 1
    if width < canvas.shape[1]:
        canvas[:height, width] = canvas[:height, width - 1]
