"""An expanded study: its config and its trials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.study.config import StudyConfig
from orchestrator.study.published import EnteredScore, Reference
from orchestrator.study.repetition import Repetition
from orchestrator.study.sampling import CellName, SearchSample
from orchestrator.study.search_match import Tuned
from orchestrator.study.yaml_source import Problem
from pipelines.training.experiment import Experiment


@dataclass(frozen=True)
class Trial:
    """One cell of the table with one seed, and one fold if the study has folds: an experiment with
    a name unique in its study.

    reference: published values for this cell. entered: score of this trial entered by hand.
    sample: of a search that samples. own: what the trial's row changes in the base, by dotted key;
    empty unless the study samples. tuned: what the trial takes from a search.
    """

    name: str
    variant: str
    label: str
    axes: dict[str, Any]
    experiment: Experiment
    reference: Reference | None
    entered: EnteredScore | None = None
    sample: SearchSample | None = None
    own: dict[str, Any] = field(default_factory=dict)
    tuned: Tuned | None = None

    @property
    def cell(self) -> CellName:
        """The trial's row and grid cell: the variant, and the axes' values as text."""
        return self.variant, *map(str, self.axes.values())

    @property
    def repetition(self) -> Repetition:
        """The seed of this training, or its seed and fold."""
        fold = self.experiment.data.fold
        return self.experiment.seed if fold is None else (self.experiment.seed, fold)

    @property
    def published_miou(self) -> float | None:
        """The published mIoU of this cell in percent."""
        return None if self.reference is None else self.reference.miou


@dataclass(frozen=True)
class Study:
    """A study with its selected trials, in the order of the file.

    text: the study file as written. resolved: the study merged with the files it extends, as YAML,
    with a comment for each `--set` and without inherited entries whose condition no cell meets.
    warnings: problems that do not prevent running the study. base: the settings that all rows start
    from, by dotted key, without defaults and without what the grid and the samples set.
    all_trials: includes the trials that `--only` leaves out. overridden: each `--set` that changes
    the table. with_samples: returns the study with the given samples of each cell in addition to
    the random ones.
    """

    config: StudyConfig
    trials: tuple[Trial, ...]
    text: str
    resolved: str = ""
    warnings: tuple[Problem, ...] = ()
    all_trials: tuple[Trial, ...] = ()
    overridden: tuple[str, ...] = ()
    base: dict[str, Any] = field(default_factory=dict)
    with_samples: Callable[[Mapping[CellName, Sequence[SearchSample]]], "Study"] | None = field(
        default=None, compare=False, repr=False
    )

    @property
    def is_partial(self) -> bool:
        """Whether `--only` leaves trials out."""
        return len(self.trials) < len(self.all_trials)

    @property
    def whole(self) -> "Study":
        """The study with all of its trials."""
        return replace(self, trials=self.all_trials) if self.is_partial else self
