"""What the ledger holds of each trial of a study: its state, its figures and its counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.ledger import Ledger, LedgerError
from orchestrator.ledger.reading import TrialRun, trial_runs
from orchestrator.report.bootstrap import resampled_miou
from orchestrator.report.counts import Counts, read_counts
from orchestrator.report.lookup import find_runs, present_codes
from orchestrator.study import Plan, Trial

State = Literal[
    "finished", "not scored", "stopped early", "failed", "running", "waiting", "stopped", "missing"
]

_STATES: dict[str, State] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "RUNNING": "running",
    "SCHEDULED": "waiting",
    "KILLED": "stopped",
}
# Trials whose counts are held at once.
_TOGETHER = 16


@dataclass(frozen=True)
class Scored:
    """What the counts of one trial come to; IoU in [0, 1].

    iou: `(classes,)`; image_miou: `(images,)`; resampled: mIoU of each replicate, `(replicates,)`.
    """

    identifiers: tuple[str, ...]
    groups: tuple[str | None, ...]
    classes: tuple[str, ...]
    iou: NDArray[np.float64]
    image_miou: NDArray[np.float64]
    resampled: NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """One trial in the report.

    state: `not scored` is trained to the end, but not scored under the report's protocol yet.
    miou: in percent, of the last checkpoint; best: of the epoch chosen on the same images. stale:
    trained by another version of the code than the present one.
    """

    trial: Trial
    run: TrialRun | None
    state: State
    miou: float | None
    best: float | None
    scored: Scored | None
    stale: bool


@dataclass
class Results:
    """The results of one study, read again and again while it runs: what is finished is read once.

    identities: of the trials, by name, where they have been resolved.
    """

    plan: Plan
    ledger: Ledger
    identities: Mapping[str, str] | None = None
    _scored: dict[tuple[str, str], Scored | None] = field(default_factory=dict)

    def read(self) -> list[Result]:
        """The results as the ledger holds them now, in the order of the study."""
        runs = find_runs(self.plan, trial_runs(self.ledger), self.identities)
        codes = present_codes(self.plan)
        name = self.plan.study.report.protocol
        prefix = "val" if name is None else f"eval/{name}"
        folder = "" if name is None else f"eval/{name}/"
        finished = [run for run in runs.values() if run.status == "FINISHED"]
        self._score([(run.run_id, f"{folder}counts.arrow") for run in finished])
        results = []
        for trial in self.plan.trials:
            run = runs.get(trial.name)
            state: State = "missing" if run is None else _STATES[run.status]
            if run is not None and run.stopped_early and self.plan.study.kind == "search":
                state = "stopped early"
            miou = best = scored = None
            if run is not None and state == "finished":
                miou = run.metrics.get(f"{prefix}/miou")
                best = run.metrics.get("val/best_miou") if name is None else None
                scored = self._scored.get((run.run_id, f"{folder}counts.arrow"))
                validated = trial.experiment.data.validation_split is not None
                if miou is None and (validated or name is not None):
                    state = "not scored"
            results.append(
                Result(
                    trial=trial,
                    run=run,
                    state=state,
                    miou=None if miou is None else 100 * miou,
                    best=None if best is None else 100 * best,
                    scored=scored,
                    stale=run is not None
                    and run.status == "FINISHED"
                    and run.code != codes[trial.name],
                )
            )
        return results

    def _score(self, files: Sequence[tuple[str, str]]) -> None:
        """Read the counts that have not been read yet; those of the same images together."""
        new = [file for file in dict.fromkeys(files) if file not in self._scored]
        for start in range(0, len(new), _TOGETHER):
            part = new[start : start + _TOGETHER]
            read = {file: self._read(*file) for file in part}
            waiting = {file: counts for file, counts in read.items() if counts is not None}
            self._scored |= dict.fromkeys(read.keys() - waiting.keys())
            while waiting:
                first = next(iter(waiting.values()))
                alike = {file: c for file, c in waiting.items() if c.same_images(first)}
                resampled = resampled_miou(list(alike.values()))
                for (file, counts), replicates in zip(alike.items(), resampled, strict=True):
                    self._scored[file] = Scored(
                        counts.identifiers,
                        counts.groups,
                        counts.classes,
                        counts.iou,
                        counts.image_miou,
                        replicates,
                    )
                    del waiting[file]

    def _read(self, run_id: str, path: str) -> Counts | None:
        """None where the run keeps no counts, or none that can be read."""
        with TemporaryDirectory(prefix="counts-") as directory:
            try:
                return read_counts(self.ledger.download(f"runs:/{run_id}/{path}", Path(directory)))
            except (LedgerError, ValueError):
                return None
