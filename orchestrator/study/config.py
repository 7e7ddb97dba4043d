"""The study: what a study file may say, and the trials it stands for.

A study is a base experiment, named variants laid over it (the rows of a table), a grid of axes laid
over those (its columns), values that depend on the cell, and seeds. Resources and limits stand
apart, because they do not decide a result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.study.published import (
    EnteredScore,
    EnteredScores,
    PublishedRow,
    Reference,
    References,
)
from orchestrator.study.resources import Resources
from pipelines.evaluation.inference import InferenceConfig


@dataclass(frozen=True)
class Limits:
    """What a study may use before it holds: each running trial ends at its next checkpoint, nothing
    new is started, and what was left out is said. Running the study again goes on.

    gpu_hours: hours of all GPUs together (of all CPU workers where there is no GPU), over all
        commands that worked on the study.
    wall_hours: hours from the moment a command starts to train.
    trials: trials that one command starts at most; those it has started are finished.
    failures: trials that may fail before a command holds.
    """

    __pydantic_config__ = {"extra": "forbid"}

    gpu_hours: float | None = None
    wall_hours: float | None = None
    trials: int | None = None
    failures: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{entry.name} must be above 0, received {value}")


@dataclass(frozen=True)
class EarlyStopping:
    """Successive halving (ASHA, Li et al., 2020): at each rung only the best go on. For studies of
    `kind: search` alone, because rows that were stopped by their rank make no fair table.

    grace_epochs: epochs that every trial gets, the first rung.
    reduction: one in so many goes on from each rung to the next, which lies so many times further.
    """

    __pydantic_config__ = {"extra": "forbid"}

    grace_epochs: int = 10
    reduction: int = 3

    def __post_init__(self) -> None:
        if self.grace_epochs < 1:
            raise ValueError(f"grace_epochs must be at least 1, received {self.grace_epochs}")
        if self.reduction < 2:
            raise ValueError(f"reduction must be at least 2, received {self.reduction}")


@dataclass(frozen=True)
class VariantConfig:
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
class ConditionalConfig:
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
class StudyConfig:
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
    variants: dict[str, VariantConfig]
    kind: Literal["table", "search", "profile"] = "table"
    description: str = ""
    extends: str | tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    base: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    when: tuple[ConditionalConfig, ...] = ()
    seeds: tuple[int, ...] = (0,)
    compare_to: str | None = None
    first: tuple[str, ...] | None = None
    protocols: dict[str, InferenceConfig] = field(default_factory=dict)
    submission: Submission | None = None
    published: tuple[PublishedRow, ...] = ()
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


def field_names(config: type[Any]) -> list[str]:
    """The names of a dataclass's fields."""
    return [entry.name for entry in fields(config)]
