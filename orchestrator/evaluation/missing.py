"""Evaluations that finished trials still lack, and the loop that runs them.

As for training, the tracking store decides: what it already has is not evaluated again, and a
protocol that is added later also scores trials that were trained before.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.progress import Progress

from orchestrator.cluster.refusals import refusals_shown
from orchestrator.console import progress, say, warn
from orchestrator.evaluation.scoring import DatasetRef, EvaluationEndedError, StopReason
from orchestrator.evaluation.trained_model import TrainedModel, load_model
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking.store import TrackingStore

# The tags of each later evaluation of a run, by its name.
Evaluations = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class MissingEvaluation(ABC):
    """An evaluation that a finished trial's run lacks. name: under which it is recorded; split: of
    the trial's data set."""

    trial: ResolvedTrial
    run_id: str
    name: str
    split: str

    @property
    def dataset(self) -> DatasetRef:
        """The samples to evaluate on."""
        trial = self.trial
        return DatasetRef(str(trial.location), trial.dataset.manifest.fingerprint, self.split)

    @property
    @abstractmethod
    def failure(self) -> str:
        """What is missing if the evaluation fails, for messages."""

    @abstractmethod
    def evaluate(
        self, model: TrainedModel, store: TrackingStore, bar: Progress, stop_reason: StopReason
    ) -> str:
        """Evaluate on the connected cluster and record the result; return a summary of it. Raises
        EvaluationEndedError if `stop_reason` returns a reason."""


def finished_trials(
    trials: Sequence[ResolvedTrial], run_ids: Mapping[str, str]
) -> Iterator[tuple[ResolvedTrial, str]]:
    """Yield the finished trials with the ids of their runs. run_ids: by trial name."""
    for trial in trials:
        if trial.name in run_ids:
            yield trial, run_ids[trial.name]


def evaluate_missing(
    missing: Sequence[MissingEvaluation],
    store: TrackingStore,
    imports: Sequence[str],
    console: Console,
    stop_reason: StopReason,
) -> dict[str, str]:
    """Evaluate the last checkpoint of each trial on the connected cluster, until `stop_reason`
    returns a reason. Returns the causes of failures by trial name."""
    failures: dict[str, str] = {}
    ended = ""
    with progress(console) as bar, refusals_shown("the evaluation", partial(warn, console)):
        for entry in missing:
            name = entry.trial.name
            ended = ended or stop_reason(False)
            if ended:
                failures.setdefault(name, f"{entry.failure}: {ended}")
                continue
            try:
                model = load_model(f"runs:/{entry.run_id}/last", store, imports)
                summary = entry.evaluate(model, store, bar, stop_reason)
            except EvaluationEndedError as error:
                ended = str(error)
                failures.setdefault(name, f"{entry.failure}: {ended}")
                continue
            except Exception as error:  # the other trials can still be evaluated
                cause = f"{entry.failure}: {error}"
                failures[name] = f"{failures[name]}; {cause}" if name in failures else cause
                continue
            say(console, f"{name}: {summary}")
    return failures
