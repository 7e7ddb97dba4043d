"""Packs each finished trial's predictions of a test split for a benchmark's server."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from orchestrator.evaluation.missing import Evaluations, MissingEvaluation, finished_trials
from orchestrator.evaluation.records import is_current, protocol_tag
from orchestrator.evaluation.scoring import StopReason, predict_files
from orchestrator.evaluation.trained_model import TrainedModel
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.store import TrackingStore
from pipelines.evaluation.config import InferenceConfig
from pipelines.submission import pack


@dataclass(frozen=True)
class MissingSubmission(MissingEvaluation):
    """A finished trial whose submission for `benchmark` has not been written to `directory`."""

    config: InferenceConfig
    benchmark: str
    directory: Path

    @property
    def failure(self) -> str:
        return "its submission was not written"

    def evaluate(
        self, model: TrainedModel, store: TrackingStore, bar: Progress, stop_reason: StopReason
    ) -> str:
        files = predict_files(model, self.dataset, self.config, self.benchmark, bar, stop_reason)
        package = self.directory / f"{re.sub(r'[^A-Za-z0-9._+-]+', '-', self.trial.name)}.zip"
        pack(package, files)
        tags = {
            "protocol": protocol_tag(self.config),
            "checkpoint": "last",
            "data": self.dataset.fingerprint,
            "split": self.split,
            "code": self.trial.code,
        }
        with tempfile.TemporaryDirectory(prefix="submission-") as temporary:
            artifacts = Path(temporary)
            (artifacts / package.name).symlink_to(package)
            log_evaluation(store, self.run_id, self.name, {}, tags, artifacts)
        return f"{len(files)} label maps for {self.benchmark} in {package}"


def missing_submissions(
    study: Study,
    trials: Sequence[ResolvedTrial],
    run_ids: Mapping[str, str],
    evaluations: Callable[[str], Evaluations],
    directory: Path,
) -> Iterator[MissingSubmission]:
    """Yield the submissions to write to `directory`. run_ids: of the finished trials, by trial
    name; evaluations: returns the recorded evaluations of a run."""
    submission = study.config.submission
    if submission is None:
        return
    protocol = submission.protocol
    config = InferenceConfig() if protocol is None else study.config.protocols[protocol].inference
    name = f"submission-{submission.benchmark}"
    for trial, run_id in finished_trials(trials, run_ids):
        tags = evaluations(run_id).get(name, {})
        fingerprint = trial.dataset.manifest.fingerprint
        if not is_current(tags, config, fingerprint, submission.split):
            yield MissingSubmission(
                trial, run_id, name, submission.split, config, submission.benchmark, directory
            )
