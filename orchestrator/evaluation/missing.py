"""Evaluations that finished trials still lack, and the loop that runs them.

As for training, the tracking store decides: what it already has is not evaluated again, and a
protocol that is added later also scores trials that were trained before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress

from orchestrator.console import progress, say
from orchestrator.evaluation.scoring import DatasetRef
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
    def evaluate(self, model: TrainedModel, store: TrackingStore, bar: Progress) -> str:
        """Evaluate on the connected cluster and record the result; return a summary of it."""


def evaluate_missing(
    missing: Sequence[MissingEvaluation],
    store: TrackingStore,
    imports: Sequence[str],
    console: Console,
    stop_requested: Callable[[], bool],
) -> dict[str, str]:
    """Evaluate the last checkpoint of each trial on the connected cluster. Returns the causes of
    failures by trial name."""
    failures: dict[str, str] = {}
    with progress(console) as bar:
        for entry in missing:
            name = entry.trial.name
            if stop_requested():
                failures.setdefault(name, f"{entry.failure}: stopped")
                continue
            try:
                model = load_model(f"runs:/{entry.run_id}/last", store, imports)
                summary = entry.evaluate(model, store, bar)
            except Exception as error:  # the other trials can still be evaluated
                cause = f"{entry.failure}: {error}"
                failures[name] = f"{failures[name]}; {cause}" if name in failures else cause
                continue
            say(console, f"{name}: {summary}")
    return failures
