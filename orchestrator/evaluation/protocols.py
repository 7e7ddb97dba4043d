"""Scores each finished trial's last checkpoint under the additional protocols of its study."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.progress import Progress

from orchestrator.evaluation.missing import Evaluations, MissingEvaluation, finished_trials
from orchestrator.evaluation.records import log_scores, missing_protocols
from orchestrator.evaluation.scoring import StopReason, count
from orchestrator.evaluation.trained_model import TrainedModel
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.store import TrackingStore
from pipelines.evaluation.config import EvaluationConfig


@dataclass(frozen=True)
class MissingScore(MissingEvaluation):
    """A finished trial that has not been scored under the protocol `name` of its study."""

    config: EvaluationConfig

    @property
    def failure(self) -> str:
        return f"not scored under {self.name}"

    def evaluate(
        self, model: TrainedModel, store: TrackingStore, bar: Progress, stop_reason: StopReason
    ) -> str:
        scores = count(model, self.dataset, self.config, bar, stop_reason).scores()
        log_scores(store, model, self.name, scores, self.trial.dataset, self.split, self.config)
        return f"{100 * scores.miou:.2f} % mIoU under {self.name}"


def missing_scores(
    study: Study,
    trials: Sequence[ResolvedTrial],
    run_ids: Mapping[str, str],
    evaluations: Callable[[str], Evaluations],
) -> Iterator[MissingScore]:
    """Yield the missing scores, once for each run and protocol. run_ids: of the finished trials, by
    trial name; evaluations: returns the recorded evaluations of a run."""
    seen: set[tuple[str, str]] = set()
    if not study.config.protocols:
        return
    for trial, run_id in finished_trials(trials, run_ids):
        for name, split, config in missing_protocols(study, trial, evaluations(run_id)):
            if (run_id, name) not in seen:
                seen.add((run_id, name))
                yield MissingScore(trial, run_id, name, split, config)
