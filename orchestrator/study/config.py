"""The configuration that a study file is validated as.

A study is a base experiment, named variants that override it (the rows of a table), a grid of axes
that override those (its columns), values that depend on the cell, and seeds. Resources and limits
are separate because they do not change a result.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from models.registry import is_class_name
from orchestrator.study.evaluation_options import LatencyConfig, ProtocolConfig, Submission
from orchestrator.study.mirrors import MirrorOptions
from orchestrator.study.notifications import NotifyOptions
from orchestrator.study.published import (
    EnteredScore,
    EnteredScores,
    PublishedRow,
    Reference,
    References,
)
from orchestrator.study.repetition import MAX_FOLDS, FoldsConfig, Repetition
from orchestrator.study.report_options import ReportOptions
from orchestrator.study.resources import Resources
from orchestrator.study.sampling import MAX_SAMPLES, RangeConfig, SamplesConfig
from orchestrator.study.search_result import SearchResult
from pipelines.evaluation.config import EvaluationConfig, metric_configs


@dataclass(frozen=True)
class Limits:
    """Limits at which a command stops starting trials; none by default. Running trials stop at
    their next checkpoint, the trials left over are listed, and the same command continues later.

    gpu_hours: GPU-hours the study may use, over all commands that worked on it; worker-hours on
        CPUs.
    wall_hours: wall-clock hours from a command's start during which it may train.
    trials: trials one command may start; those it has started run to their end.
    failures: failed trials after which a command stops.
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
    """Successive halving (ASHA, Li et al., 2020): only the best trials continue past each rung.
    Requires `kind: search`, because a table must not compare trials stopped by their rank.

    grace_epochs: epochs that every trial gets; the first rung.
    reduction: factor between rungs: one in `reduction` trials continues, to `reduction` times the
        epochs.
    metric: score on the validation split by which trials are ranked: `miou`, another one of each
        evaluation, such as `dice` or `iou/CLASS`, or the key of a metric in `evaluation.metrics`.
    """

    __pydantic_config__ = {"extra": "forbid"}

    grace_epochs: int = 10
    reduction: int = 3
    metric: str = "miou"

    def __post_init__(self) -> None:
        if self.grace_epochs < 1:
            raise ValueError(f"grace_epochs must be at least 1, received {self.grace_epochs}")
        if self.reduction < 2:
            raise ValueError(f"reduction must be at least 2, received {self.reduction}")


@dataclass(frozen=True)
class VariantConfig:
    """One row of the table.

    set: a partial experiment that overrides the base.
    label: name in the table; the variant's key by default.
    reference: published values, or a list of them if they depend on the cell.
    entered: a score entered by hand, such as a test server's, or a list of them.
    compare_to: variant that this row's differences are computed against; the study's `compare_to`
        by default.
    part: part of the network whose cost the row shows, such as `flows.detail`; the whole network
        by default. Requires `kind: profile`.
    """

    __pydantic_config__ = {"extra": "forbid"}

    set: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    reference: References | None = None
    entered: EnteredScores | None = None
    compare_to: str | None = None
    part: str | None = None

    @property
    def references(self) -> tuple[Reference, ...]:
        """`reference` as a tuple."""
        if self.reference is None:
            return ()
        return (self.reference,) if isinstance(self.reference, Reference) else self.reference

    @property
    def entered_scores(self) -> tuple[EnteredScore, ...]:
        """`entered` as a tuple."""
        if self.entered is None:
            return ()
        return (self.entered,) if isinstance(self.entered, EnteredScore) else self.entered

    @property
    def published(self) -> dict[str, Sequence[Reference | EnteredScore]]:
        """All published values and entered scores, by their key in the file."""
        return {"reference": self.references, "entered": self.entered_scores}


@dataclass(frozen=True)
class ConditionalConfig:
    """Values for some of the cells; they override base, variant and grid.

    if: dotted keys of the experiment, or `variant`, each with a value or a list of values; a cell
        must match all of them.
    set: a partial experiment.
    """

    __pydantic_config__ = {"extra": "forbid"}

    condition: Annotated[dict[str, Any], Field(alias="if", min_length=1)]
    set: Annotated[dict[str, Any], Field(min_length=1)]


@dataclass(frozen=True)
class ProfileOptions:
    """Inputs of the cost counts of a `kind: profile` study, which has no data set.

    classes: number of classes of each network.
    size: height and width in pixels of the image that multiply-adds are counted for.
    """

    __pydantic_config__ = {"extra": "forbid"}

    classes: int = 19
    size: tuple[int, int] = (1024, 1024)

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, received {self.classes}")
        if min(self.size) < 1:
            raise ValueError(
                f"size must be a height and a width of at least 1 pixel, received {list(self.size)}"
            )


@dataclass(frozen=True)
class StudyConfig:
    """A validated study file.

    study: name of the study, and of its MLflow experiment.
    kind: `table` trains every trial to the end; `search` may stop trials early; `profile` trains
        nothing and shows parameters and FLOPs.
    description: Markdown shown in MLflow and in the report.
    extends: study file, or list of study files, that this file overrides; paths are relative to
        this file.
    imports: Python modules of your own that register short names of backbones or kinds of FEM;
        classes named as `package.module:Class` need no entry.
    base: experiment that all cells start from; omitted keys have their defaults.
    variants: rows of the table, by name.
    grid: columns of the table: dotted keys of the experiment, such as `model.backbone`, each with a
        list of values.
    when: values that depend on the cell, applied in order after base, variant and grid.
    seeds: seeds of each cell; every seed is one trial.
    sample: keys that a `kind: search` study samples, by dotted key, each with a range such as
        `{log: [1e-3, 1]}`.
    samples: number of samples of each row and grid cell, or a mapping of `count`, `method` and
        others; every sample is one trial for each seed.
    from_search: file with the best samples of a search, as its report writes them to `found.yaml`;
        each row takes its own, over base, variant and grid. The path is relative to this file.
    folds: number of folds of a cross-validation, or a mapping of `count` and `by`; every fold of
        every seed is one trial. None by default.
    compare_to: variant that differences are computed against; no differences by default. A variant
        may have its own.
    first: variants whose first seed (and fold) is trained before everything else; by default,
        `compare_to` (or the first variant) and the last variant.
    protocols: additional ways to score the last checkpoint, by name: inference settings, and the
        split, such as `test`.
    submission: predictions packaged for a test server; none by default.
    latency: time and memory of a forward pass of each finished trial's network; not measured by
        default.
    published: rows with published values of other methods.
    profile: inputs of the cost counts of a `kind: profile` study.
    report: options of the report.
    resources: resources of each trial; they do not change a result.
    limits: limits on what the study may use.
    notify: who is notified when a command that trains ends.
    mirror: other programs that receive the metrics while trials train.
    early_stopping: rule by which a `kind: search` study stops trials early; no trial is stopped
        early by default.
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
    sample: dict[str, RangeConfig] = field(default_factory=dict)
    samples: int | SamplesConfig | None = None
    from_search: str | SearchResult | None = None
    seeds: tuple[int, ...] = (0,)
    folds: int | FoldsConfig | None = None
    compare_to: str | None = None
    first: tuple[str, ...] | None = None
    protocols: dict[str, ProtocolConfig] = field(default_factory=dict)
    submission: Submission | None = None
    latency: LatencyConfig | None = None
    published: tuple[PublishedRow, ...] = ()
    profile: ProfileOptions | None = None
    report: ReportOptions = field(default_factory=ReportOptions)
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    notify: NotifyOptions = field(default_factory=NotifyOptions)
    mirror: MirrorOptions = field(default_factory=MirrorOptions)
    early_stopping: EarlyStopping | None = None

    @property
    def cross_validation(self) -> FoldsConfig | None:
        """`folds` in its long form; None without folds."""
        if isinstance(self.folds, int):
            # `checks` reports other numbers.
            return FoldsConfig(self.folds) if 1 < self.folds <= MAX_FOLDS else None
        return self.folds

    @property
    def sampling(self) -> SamplesConfig | None:
        """`samples` in its long form; None for a study without `sample`."""
        if not self.sample or self.samples is None:
            return None
        if isinstance(self.samples, int):
            # `search_checks` reports other numbers.
            return SamplesConfig(min(max(1, self.samples), MAX_SAMPLES))
        return self.samples

    @property
    def search_result(self) -> SearchResult | None:
        """The content of `from_search`; None without it."""
        return self.from_search if isinstance(self.from_search, SearchResult) else None

    @property
    def fold_count(self) -> int | None:
        """The number of folds; None without folds."""
        return None if self.cross_validation is None else self.cross_validation.count

    @property
    def repetitions(self) -> tuple[Repetition, ...]:
        """What every cell is trained with: each seed, or each fold of each seed."""
        if self.cross_validation is None:
            return self.seeds
        return tuple(itertools.product(self.seeds, range(self.cross_validation.count)))

    @property
    def user_code(self) -> tuple[str, ...]:
        """The user code that the study itself names: `imports` and the protocols' own metrics."""
        metrics = [m for each in self.protocols.values() for m in metric_configs(each.metrics)]
        return (*self.imports, *(m.name for m in metrics if is_class_name(m.name)))

    def evaluation_under(
        self, protocol: str | None, evaluation: EvaluationConfig
    ) -> EvaluationConfig:
        """Return how a trial is scored under a protocol, None for during training. evaluation: the
        trial's own."""
        return evaluation if protocol is None else self.protocols[protocol].evaluation(evaluation)

    def scored_split(self, protocol: str | None, validation_split: str | None) -> str | None:
        """Return the split that a trial is scored on under a protocol, None for the one used during
        training; None if it is not scored. validation_split: the trial's own."""
        split = None if protocol is None else self.protocols[protocol].split
        return split or validation_split

    def scored_splits(self, validation_split: str | None) -> list[str]:
        """Return all splits that a trial is scored on: during training and under any protocol."""
        splits = [self.scored_split(name, validation_split) for name in (None, *self.protocols)]
        return list(dict.fromkeys(split for split in splits if split is not None))

    def compared_to(self, variant: str) -> str | None:
        """Return the variant that `variant` is compared to; None if it is not compared."""
        compared_to = self.variants[variant].compare_to or self.compare_to
        return None if compared_to == variant else compared_to

    @property
    def first_variants(self) -> tuple[str, ...]:
        """`first`, or by default `compare_to` (or the first variant) and the last variant."""
        if self.first is not None:
            return self.first
        rows = [self.compare_to or next(iter(self.variants)), list(self.variants)[-1]]
        return tuple(dict.fromkeys(rows))


def field_names(config: type[Any]) -> list[str]:
    """Return the names of a dataclass's fields."""
    return [entry.name for entry in fields(config)]
