"""An expanded study: its config and its trials."""

from dataclasses import dataclass, replace
from typing import Any

from orchestrator.study.config import StudyConfig
from orchestrator.study.published import (
    EnteredScore,
    Reference,
)
from orchestrator.study.yaml_source import Problem
from pipelines.training.experiment import Experiment


@dataclass(frozen=True)
class Trial:
    """One cell of the table with one seed: what to train, under a name unique in the study.

    reference: published for this cell; entered: this trial's score by hand.
    """

    name: str
    variant: str
    label: str
    axes: dict[str, Any]
    experiment: Experiment
    reference: Reference | None
    entered: EnteredScore | None = None

    @property
    def published_miou(self) -> float | None:
        """mIoU in percent that was published for this cell."""
        return None if self.reference is None else self.reference.miou


@dataclass(frozen=True)
class Study:
    """A study with its trials, in the order of the file, and the text it was read from.

    resolved: the study with all it extends, as YAML, and a comment for each `--set`. warnings: what
    a person should look at, although the study can be run. every: all trials of the study, also
    those that `--only` leaves out. overridden: each `--set` that makes another table than the
    file's.
    """

    config: StudyConfig
    trials: tuple[Trial, ...]
    text: str
    resolved: str = ""
    warnings: tuple[Problem, ...] = ()
    every: tuple[Trial, ...] = ()
    overridden: tuple[str, ...] = ()

    @property
    def is_partial(self) -> bool:
        """Whether `--only` leaves trials out."""
        return len(self.trials) < len(self.every)

    @property
    def whole(self) -> "Study":
        """The plan of all trials of the study."""
        return replace(self, trials=self.every) if self.is_partial else self
