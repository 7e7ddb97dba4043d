"""Per-trial scores and bootstrap replicates, from the statistics by image in the tracking store."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.statistics.bootstrap import (
    Sampling,
    count_metric,
    labeled_classes,
    labeled_score,
    resampled_scores,
    sampling_of,
)
from orchestrator.tracking.store import TrackingError
from pipelines.evaluation.counts import Counts, mean_over_classes, read_counts
from pipelines.evaluation.metrics import COUNT_METRICS, Measured
from pipelines.evaluation.statistics_file import STATISTICS_FILE, read_statistics

Content = TypeVar("Content")

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
class ResampledScore:
    """A metric of one trial.

    score: over all images, as an evaluation computes it. labeled: over the classes in the labels.
    resampled: of each bootstrap replicate over the classes in its labels, `(replicates,)`; None if
        some replicate has no score.
    """

    score: float
    labeled: float
    resampled: NDArray[np.float64] | None


@dataclass(frozen=True)
class ResampledCounts:
    """IoU in [0, 1] from the per-image counts of one trial, float64.

    iou: IoU by class, `(classes,)`; NaN for a class that does not occur.
    labeled: whether a class occurs in the labels, bool `(classes,)`.
    image_miou: mIoU of each image by itself, `(images,)`.
    resampled: mIoU of each bootstrap replicate over the classes in its labels, `(replicates,)`.
    sampling: how the replicates draw images.
    metrics: the other requested metrics that the trial has, by key.
    """

    identifiers: tuple[str, ...]
    groups: tuple[str | None, ...]
    classes: tuple[str, ...]
    iou: NDArray[np.float64]
    labeled: NDArray[np.bool_]
    image_miou: NDArray[np.float64]
    resampled: NDArray[np.float64]
    sampling: Sampling
    metrics: Mapping[str, ResampledScore] = field(default_factory=dict)

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
    """Reads and resamples the counts of scores, each once; missing counts are tried again.

    metrics: keys of the metrics to resample besides mIoU. class_groups: groups of classes by name.
    """

    source: CountsSource
    metrics: tuple[str, ...] = ()
    class_groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
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
        waiting = {score: counts for score in scores if (counts := self._counts(score))}
        while waiting:
            first = next(iter(waiting.values()))
            alike = {each: counts for each, counts in waiting.items() if counts.same_images(first)}
            measured = [
                [count_metric(counts, "miou"), *self._metrics(score, counts)]
                for score, counts in alike.items()
            ]
            resampled = resampled_scores(list(alike.values()), measured)
            for (score, counts), metrics, replicates in zip(
                alike.items(), measured, resampled, strict=True
            ):
                labeled = labeled_classes(counts)
                self._cache[score] = ResampledCounts(
                    counts.identifiers,
                    counts.groups,
                    counts.classes,
                    counts.iou,
                    labeled,
                    counts.image_miou,
                    replicates["miou"],
                    sampling_of(counts),
                    {
                        each.key: _resampled_score(each, labeled, replicates[each.key])
                        for each in metrics[1:]
                    },
                )
                del waiting[score]

    def _counts(self, score: ScoreRef) -> Counts | None:
        """Return the counts of a score; None if they are unreadable or of a different score."""
        counts = self._download(score.run_id, score.counts_path, read_counts)
        return counts if counts and abs(counts.miou - score.miou) <= _ROUNDING else None

    def _metrics(self, score: ScoreRef, counts: Counts) -> list[Measured]:
        """Return the requested metrics that a run has, with their statistics of the same images."""
        found = [
            count_metric(counts, key, self.class_groups)
            for key in self.metrics
            if key in COUNT_METRICS or key.startswith("iou/")
        ]
        if len(found) == len(self.metrics):
            return found
        path = str(PurePosixPath(score.counts_path).with_name(STATISTICS_FILE))
        statistics = self._download(score.run_id, path, read_statistics)
        if statistics is None or statistics.identifiers != counts.identifiers:
            return found
        # torch is imported where it is needed only.
        from pipelines.evaluation.measuring import build_metrics

        configs = [config for key, config in statistics.configs.items() if key in self.metrics]
        return found + [
            Measured(each.key, each.metric, statistics.values[each.key])
            for each in build_metrics(configs, len(counts.classes))
            # The source of a custom metric may have changed since.
            if each.length == statistics.values[each.key].shape[1]
        ]

    def _download(self, run_id: str, path: str, read: Callable[[Path], Content]) -> Content | None:
        """Return the content of a run's file; None if it is missing or unreadable."""
        with TemporaryDirectory(prefix="counts-") as directory:
            try:
                return read(self.source.download_file(run_id, path, Path(directory)))
            except (TrackingError, ValueError):
                return None


def _resampled_score(
    measured: Measured, labeled: NDArray[np.bool_], replicates: NDArray[np.float64]
) -> ResampledScore:
    over_labeled = labeled_score(measured.metric, measured.statistics.sum(axis=0), labeled)
    finite = bool(np.isfinite(replicates).all() and np.isfinite(over_labeled))
    return ResampledScore(measured.score, float(over_labeled), replicates if finite else None)
