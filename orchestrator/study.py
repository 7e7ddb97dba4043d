"""The study: what a study file may say, and the trials it stands for.

A study is a base experiment, named variants laid over it (the rows of a table), a grid of axes laid
over those (its columns), values that depend on the cell, and seeds. Resources and limits stand
apart, because they do not decide a result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.limits import EarlyStopping, Limits
from orchestrator.resources import Resources
from orchestrator.source import Problem
from orchestrator.stated import EnteredScore, EnteredScores, Published, Reference, References
from pipelines.experiment import Experiment
from pipelines.inference import InferenceConfig


@dataclass(frozen=True)
class Variant:
    """One row: what it sets over the base, how it is called, what was published for it.

    set: a partial experiment laid over the base.
    label: its name in the table; the variant's own name when left out.
    reference: published values, or a list of them where they depend on the cell.
    entered: a score entered by hand, or a list of them, such as a test server's.
    part: of a profile, the part of the network whose cost the row states, such as `flows.detail`;
        the whole network when left out.
    """

    __pydantic_config__ = {"extra": "forbid"}

    set: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    reference: References | None = None
    entered: EnteredScores | None = None
    part: str | None = None

    @property
    def references(self) -> tuple[Reference, ...]:
        """The published values as a list."""
        if self.reference is None:
            return ()
        return (self.reference,) if isinstance(self.reference, Reference) else self.reference

    @property
    def entered_scores(self) -> tuple[EnteredScore, ...]:
        """The scores entered by hand as a list."""
        if self.entered is None:
            return ()
        return (self.entered,) if isinstance(self.entered, EnteredScore) else self.entered

    @property
    def stated(self) -> dict[str, Sequence[Reference | EnteredScore]]:
        """All that is stated of the row's cells, by the key it stands under."""
        return {"reference": self.references, "entered": self.entered_scores}


@dataclass(frozen=True)
class Conditional:
    """Values for some of the cells, laid over base, variant and grid.

    if: dotted keys of the experiment, or `variant`, each with a value or a list of values; the part
        counts where all of them hold.
    set: a partial experiment.
    """

    __pydantic_config__ = {"extra": "forbid"}

    condition: Annotated[dict[str, Any], Field(alias="if", min_length=1)]
    set: Annotated[dict[str, Any], Field(min_length=1)]


@dataclass(frozen=True)
class Submission:
    """Predictions packed for a benchmark's test server.

    benchmark: whose form the label maps take.
    split: of the data set, whose images are predicted.
    protocol: one of `protocols`; single scale, whole image when left out.
    """

    __pydantic_config__ = {"extra": "forbid"}

    benchmark: Literal["cityscapes", "ade20k"]
    split: str = "test"
    protocol: str | None = None


@dataclass(frozen=True)
class ReportOptions:
    """What the study's report shows.

    protocol: which of `protocols` is the table's figure; that of training when left out.
    expected_difference: points of mIoU that the study must be able to show; the report says whether
        its seeds can.
    images: pictures shown of the best and of the worst.
    figures: drawn when the study ends: `comparison`, the last row against `compare_to` where they
        differ most, and `features`, what the flows do to feature maps; both when left out.
    """

    __pydantic_config__ = {"extra": "forbid"}

    protocol: str | None = None
    expected_difference: float | None = None
    images: int = 5
    figures: tuple[Literal["comparison", "features"], ...] | None = None

    def __post_init__(self) -> None:
        if self.expected_difference is not None and not self.expected_difference > 0:
            raise ValueError(
                f"expected_difference must be above 0, received {self.expected_difference}"
            )
        if self.images < 0:
            raise ValueError(f"images must not be negative, received {self.images}")


@dataclass(frozen=True)
class ProfileOptions:
    """What a study of `kind: profile` counts for, in place of a data set.

    classes: that the networks tell apart.
    size: height and width in pixels of the picture that the multiply-adds are for.
    """

    __pydantic_config__ = {"extra": "forbid"}

    classes: int = 19
    size: tuple[int, int] = (1024, 1024)

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, received {self.classes}")
        if min(self.size) < 1:
            raise ValueError(f"size must be two sizes in pixels, received {list(self.size)}")


@dataclass(frozen=True)
class Study:
    """A validated study file.

    study: the study's name; in MLflow, that of the experiment.
    kind: `table` trains every cell to its end; `search` may stop trials early; `profile` trains
        nothing and shows parameters and FLOPs.
    description: markdown shown in MLflow.
    extends: a study file, or a list of them, that this one is laid over; paths are relative to it.
    imports: modules of the user's own that register backbones or kinds of FEM.
    base: the experiment all cells start from; what is left out has its default.
    variants: the rows of the table, by name.
    grid: its columns: dotted keys of the experiment, such as `model.backbone`, and their values.
    when: values that depend on the cell, in order, over base, variant and grid.
    seeds: of the trials of each cell.
    compare_to: the variant to which differences are stated.
    first: variants whose first seed is trained before the rest.
    protocols: further ways to score the last checkpoint, by name.
    submission: predictions packed for a test server.
    published: rows of other methods.
    profile: what a `kind: profile` counts for.
    report: what the report shows.
    resources: what a trial runs on; does not decide a result.
    limits: what the study may cost.
    early_stopping: when a search gives a trial up; for `kind: search` alone.
    """

    __pydantic_config__ = {"extra": "forbid"}

    study: str
    variants: dict[str, Variant]
    kind: Literal["table", "search", "profile"] = "table"
    description: str = ""
    extends: str | tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    base: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    when: tuple[Conditional, ...] = ()
    seeds: tuple[int, ...] = (0,)
    compare_to: str | None = None
    first: tuple[str, ...] | None = None
    protocols: dict[str, InferenceConfig] = field(default_factory=dict)
    submission: Submission | None = None
    published: tuple[Published, ...] = ()
    profile: ProfileOptions | None = None
    report: ReportOptions = field(default_factory=ReportOptions)
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    early_stopping: EarlyStopping | None = None

    @property
    def first_variants(self) -> tuple[str, ...]:
        """The rows whose first seed makes the table readable: `first`, or `compare_to` and the last
        variant."""
        if self.first is not None:
            return self.first
        rows = [self.compare_to or next(iter(self.variants)), list(self.variants)[-1]]
        return tuple(dict.fromkeys(rows))


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
class Plan:
    """A study with its trials, in the order of the file, and the text it was read from.

    resolved: the study with all it extends, as YAML, and a comment for each `--set`. warnings: what
    a person should look at, although the study can be run. every: all trials of the study, also
    those that `--only` leaves out. overridden: each `--set` that makes another table than the
    file's.
    """

    study: Study
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
    def whole(self) -> "Plan":
        """The plan of all trials of the study."""
        return replace(self, trials=self.every) if self.is_partial else self


def field_names(config: type[Any]) -> list[str]:
    """The names of a dataclass's fields."""
    return [entry.name for entry in fields(config)]
