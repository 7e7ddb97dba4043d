"""Batches for training and evaluation, prepared ahead of the loop by threads.

Decoding and copying release the interpreter's lock, so threads suffice; nothing is pickled, and a
failing sample raises in the loop with the sample's name.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.data.batches import EvaluationBatch, SourceBatch
from pipelines.data.config import DataConfig
from pipelines.data.dataset import DatasetError, Samples
from pipelines.data.geometry import CropPlan, canvas_size, plan_crop
from pipelines.data.prefetch import prefetch
from pipelines.data.sampling import ClassUniform, Draws, GlobalBatches


class BufferPool:
    """Memory for batches, used again once nothing refers to the batch that had it.

    Fresh memory costs several times the copy into it, for the kernel has to clear it page by page.
    Pinned memory comes from torch, which reuses it itself when the GPU is done with it.
    """

    def __init__(self, pin: bool) -> None:
        self._pin = pin
        self._free: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised uint8 tensor."""
        if self._pin:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        free = self._free.setdefault(shape, [])
        try:
            buffer = free.pop()
        except IndexError:
            buffer = np.empty(shape, np.uint8)
        # The tensor and all its views keep `lent` alive, and with it the loan.
        lent = buffer.view()
        weakref.finalize(lent, free.append, buffer).atexit = False
        return torch.from_numpy(lent)


class TrainingBatches:
    """The training batches of one worker.

    Args:
        split: where the samples come from.
        data: crop and augmentation; decides how much of each picture is loaded.
        seed: keys order and augmentation, with the epoch.
        global_batch: samples a step over all workers.
        rank, world: this worker, and how many there are.
        threads, ahead: threads that prepare batches, and how many batches they may be ahead.
        pin: hand out batches in page-locked memory, for a GPU.

    Raises:
        ValueError: fewer samples in a global batch than workers, or class-uniform draws from a
            split without labels.
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
    ) -> None:
        uniform = ClassUniform(data.class_uniform, split.centroids) if data.class_uniform else None
        if uniform is not None and not len(uniform.centroids):
            raise ValueError("class_uniform needs labels, and no sample of the split has one")
        self.batches = GlobalBatches(len(split), seed, global_batch, rank, world, uniform)
        self._split = split
        self._data = data
        self._threads = threads
        self._ahead = ahead
        self._buffers = BufferPool(pin)
        smallest = data.augmentation.scale[0]
        self._canvas = (
            canvas_size(split.heights, data.crop[0], smallest),
            canvas_size(split.widths, data.crop[1], smallest),
        )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[SourceBatch]:
        """This worker's batches of `epoch`, from `first_step` on.

        Raises:
            DatasetError: a sample cannot be read; the message names it.
        """
        draws = self.batches.epoch(epoch, first_step)
        return prefetch(self.load, draws, self._threads, self._ahead)

    def load(self, draws: Draws) -> SourceBatch:
        """Read and cut the windows of one batch."""
        count, (height, width) = len(draws.samples), self._canvas
        # Allocated channels last, as pictures are decoded, so that a window is copied row by row.
        windows = self._buffers.take((count, height, width, 3))
        labels = self._buffers.take((count, height, width))
        plans: list[CropPlan] = []
        for row in range(count):
            image, label = _read(self._split, int(draws.samples[row]))
            study = self._study(label.shape, draws, row)
            rows = slice(study.rows.start, study.rows.stop)
            columns = slice(study.columns.start, study.columns.stop)
            _paste(windows[row].numpy(), image[rows, columns])
            _paste(labels[row].numpy(), label[rows, columns])
            plans.append(study)
        return SourceBatch(
            windows=windows.permute(0, 3, 1, 2),
            labels=labels,
            geometry=torch.tensor([(study.rows.numbers, study.columns.numbers) for study in plans]),
            flips=torch.tensor([study.flip for study in plans]),
            sample_keys=torch.from_numpy(draws.keys),
            identifiers=tuple(self._split.identifiers[sample] for sample in draws.samples),
        )

    def _study(self, size: tuple[int, ...], draws: Draws, row: int) -> CropPlan:
        augmentation = self._data.augmentation
        height, width = size
        shown_row, shown_column = draws.shown[row].tolist()
        return plan_crop(
            (height, width),
            self._data.crop,
            augmentation.scale,
            augmentation.flip,
            key=int(draws.keys[row]),
            contain=None if shown_row < 0 else (shown_row, shown_column),
        )


class EvaluationBatches:
    """Whole pictures of a split, each exactly once over all workers; one size a batch.

    Args:
        split: where the samples come from.
        batch: most pictures in a batch of one worker.
        rank, world: this worker, and how many there are.
        threads, ahead: threads that prepare batches, and how many batches they may be ahead.
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
        """Batches of this worker."""
        return len(self._batches)

    @property
    def identifiers(self) -> list[str]:
        """Of all samples of the split, over all workers; `EvaluationBatch.indices` count here."""
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


def _read(split: Samples, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A sample's image and label; whatever goes wrong, the DatasetError names the sample."""
    try:
        return split.read(index)
    except (DatasetError, MemoryError):
        raise
    except Exception as error:
        raise DatasetError(
            f"sample {split.identifiers[index]!r} cannot be read ({type(error).__name__}: {error})"
        ) from error


def _paste(canvas: NDArray[np.uint8], window: NDArray[np.uint8]) -> None:
    canvas[: window.shape[0], : window.shape[1]] = window
