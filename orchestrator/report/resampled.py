"""What the counts of trials come to, read and resampled once each, when they are there."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.bootstrap import resampled_miou
from orchestrator.tracking.store import TrackingError, TrackingStore
from pipelines.evaluation.counts import Counts, read_counts

# Trials whose counts are held at once.
_TOGETHER = 16
# mIoU in [0, 1] is the same where it differs by no more than rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ScoreRef:
    """An mIoU in [0, 1] of a run, and where its run keeps the counts it was computed from."""

    run_id: str
    counts: str
    miou: float


@dataclass(frozen=True)
class ResampledCounts:
    """What the counts of one trial come to; IoU in [0, 1].

    iou: `(classes,)`; image_miou: `(images,)`; resampled: mIoU of each replicate, `(replicates,)`.
    """

    identifiers: tuple[str, ...]
    groups: tuple[str | None, ...]
    classes: tuple[str, ...]
    iou: NDArray[np.float64]
    image_miou: NDArray[np.float64]
    resampled: NDArray[np.float64]


@dataclass
class CountsReader:
    """The counts behind figures. What is not there yet is looked for again the next time."""

    store: TrackingStore
    _known: dict[ScoreRef, ResampledCounts] = field(default_factory=dict)

    def of(self, figures: Iterable[ScoreRef]) -> dict[ScoreRef, ResampledCounts]:
        """As far as there are counts that come to the very figure: a run's counts may be written
        later than its figure, and may then still be those of an earlier one."""
        wanted = list(dict.fromkeys(figures))
        new = [figure for figure in wanted if figure not in self._known]
        for start in range(0, len(new), _TOGETHER):
            self._resample(new[start : start + _TOGETHER])
        return {figure: self._known[figure] for figure in wanted if figure in self._known}

    def _resample(self, figures: Iterable[ScoreRef]) -> None:
        """Those of the same images are resampled together."""
        waiting = {figure: counts for figure in figures if (counts := self._read(figure))}
        while waiting:
            first = next(iter(waiting.values()))
            alike = {each: counts for each, counts in waiting.items() if counts.same_images(first)}
            resampled = resampled_miou(list(alike.values()))
            for (figure, counts), replicates in zip(alike.items(), resampled, strict=True):
                self._known[figure] = ResampledCounts(
                    counts.identifiers,
                    counts.groups,
                    counts.classes,
                    counts.iou,
                    counts.image_miou,
                    replicates,
                )
                del waiting[figure]

    def _read(self, figure: ScoreRef) -> Counts | None:
        """None where the run keeps no counts that can be read, or those of another figure."""
        with TemporaryDirectory(prefix="counts-") as directory:
            try:
                uri = f"runs:/{figure.run_id}/{figure.counts}"
                counts = read_counts(self.store.download(uri, Path(directory)))
            except (TrackingError, ValueError):
                return None
        return counts if abs(counts.miou - figure.miou) <= _ROUNDING else None
