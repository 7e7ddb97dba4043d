"""Per-trial IoU and bootstrap replicates, from the per-image counts in the tracking store."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.bootstrap import (
    Sampling,
    labeled_classes,
    resampled_miou,
    sampling_of,
)
from orchestrator.tracking.store import TrackingError
from pipelines.evaluation.counts import Counts, mean_over_classes, read_counts

# Number of trials whose counts are in memory at a time.
_BATCH = 16
# Two values of mIoU in [0, 1] are equal up to this rounding error.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ScoreRef:
    """A run's mIoU in [0, 1], and the artifact path of the counts it was computed from. metric: the
    mIoU's name in MLflow."""

    run_id: str
    counts_path: str
    miou: float
    metric: str = "val/miou"


class CountsSource(Protocol):
    """A tracking store, or what else holds the artifacts of runs."""

    def download_file(self, run_id: str, path: str, directory: Path) -> Path:
        """Return the path of an artifact, copied into `directory` if it is not a local file. Raises
        TrackingError if it does not exist."""


@dataclass(frozen=True)
class ResampledCounts:
    """IoU in [0, 1] from the per-image counts of one trial, float64.

    iou: IoU by class, `(classes,)`; NaN for a class that does not occur.
    labeled: whether a class occurs in the labels, bool `(classes,)`.
    image_miou: mIoU of each image by itself, `(images,)`.
    resampled: mIoU of each bootstrap replicate over the classes in its labels, `(replicates,)`.
    sampling: how the replicates draw images.
    """

    identifiers: tuple[str, ...]
    groups: tuple[str | None, ...]
    classes: tuple[str, ...]
    iou: NDArray[np.float64]
    labeled: NDArray[np.bool_]
    image_miou: NDArray[np.float64]
    resampled: NDArray[np.float64]
    sampling: Sampling

    @property
    def labeled_miou(self) -> float:
        """mIoU in [0, 1] over the classes in the labels, which all trials have in common. A class
        without labels that the model predicts counts as 0 in the trial's own score, as in the
        benchmarks."""
        return float(mean_over_classes(self.iou[self.labeled]))

    @property
    def predicted_only(self) -> tuple[str, ...]:
        """The classes that the model predicts and that have no labels."""
        extra = ~self.labeled & ~np.isnan(self.iou)
        return tuple(name for name, given in zip(self.classes, extra, strict=True) if given)


@dataclass
class CountsReader:
    """Reads and resamples the counts of scores, each once; missing counts are tried again."""

    source: CountsSource
    _cache: dict[ScoreRef, ResampledCounts] = field(default_factory=dict)

    def read(self, scores: Iterable[ScoreRef]) -> dict[ScoreRef, ResampledCounts]:
        """Return the counts of each score, if they exist and agree with it.

        A run's counts may be written after its score; until then, they may be missing or belong to
        an earlier score.
        """
        wanted = list(dict.fromkeys(scores))
        new = [score for score in wanted if score not in self._cache]
        for start in range(0, len(new), _BATCH):
            self._resample(new[start : start + _BATCH])
        return {score: self._cache[score] for score in wanted if score in self._cache}

    def _resample(self, scores: Iterable[ScoreRef]) -> None:
        """Add the scores to the cache; counts of the same images are resampled together."""
        waiting = {score: counts for score in scores if (counts := self._download(score))}
        while waiting:
            first = next(iter(waiting.values()))
            alike = {each: counts for each, counts in waiting.items() if counts.same_images(first)}
            resampled = resampled_miou(list(alike.values()))
            for (score, counts), replicates in zip(alike.items(), resampled, strict=True):
                self._cache[score] = ResampledCounts(
                    counts.identifiers,
                    counts.groups,
                    counts.classes,
                    counts.iou,
                    labeled_classes(counts),
                    counts.image_miou,
                    replicates,
                    sampling_of(counts),
                )
                del waiting[score]

    def _download(self, score: ScoreRef) -> Counts | None:
        """Return the counts of a score; None if they are unreadable or of a different score."""
        with TemporaryDirectory(prefix="counts-") as directory:
            try:
                file = self.source.download_file(score.run_id, score.counts_path, Path(directory))
                counts = read_counts(file)
            except (TrackingError, ValueError):
                return None
        return counts if abs(counts.miou - score.miou) <= _ROUNDING else None
