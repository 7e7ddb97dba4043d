"""The rows of a study's table: one per variant and grid cell (and sample of a search), aggregated
over seeds and folds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from orchestrator.report.rows.results import Result
from orchestrator.report.statistics.significance import Difference
from orchestrator.study.conditions import VARIANT, holds
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.published import Reference
from orchestrator.study.repetition import Repetition
from orchestrator.study.sampling import SearchSample
from orchestrator.study.study import Study, Trial
from orchestrator.study.trial_state import TrialState

_Key = TypeVar("_Key")

CURRENT = "the current one"
# Variant, grid cell, number of the sample.
_Group = tuple[str, tuple[str, ...], int | None]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    results: of all trials of the row, finished or not.
    cost: None if neither a run nor a data set determines the number of classes.
    miou, best: in percent, by seed (and fold), of the trials that have a score.
    compared_to: variant that the row is compared to; empty if none.
    difference: from the row of `compared_to` in the same grid cell; None if it cannot be computed.
    mixed_difference: whether it pairs trainings with different code or precision.
    differences: in other metrics than mIoU, by metric, without adjusted p values.
    incomparable: why the row must not be compared with `compared_to`; empty if it may.
    published_elsewhere: whether the published values are of another data set, backbone or other
        setting than this row (`report.published_setting`).
    published_difference: of the published mIoU, from that of `compared_to`.
    images_per_second, hours: means over the finished trials.
    entered: scores in percent entered by hand, by seed.
    sample: of a search that samples.
    """

    variant: str
    label: str
    axes: dict[str, Any]
    results: tuple[Result, ...]
    cost: ModelCost | None
    miou: dict[Repetition, float]
    best: dict[Repetition, float]
    compared_to: str
    reference: Reference | None
    published_elsewhere: bool
    published_difference: float | None
    images_per_second: float | None
    hours: float | None
    entered: dict[int, float]
    difference: Difference | None = None
    mixed_difference: bool = False
    differences: Mapping[str, Difference] = field(default_factory=dict)
    incomparable: str = ""
    sample: SearchSample | None = None

    @property
    def grid_cell(self) -> tuple[str, ...]:
        """The row's cell of the grid: the axes' values as text."""
        return tuple(map(str, self.axes.values()))

    @property
    def finished(self) -> tuple[Result, ...]:
        """The results that have a score, or need none without validation images."""
        return tuple(result for result in self.results if is_finished(result))

    @property
    def uncounted(self) -> tuple[Result, ...]:
        """The results with a score whose per-image pixel counts are missing, unreadable, or of
        another score."""
        return tuple(r for r in self.results if r.miou is not None and r.counts is None)

    @property
    def published(self) -> float | None:
        """The published mIoU of this row in percent."""
        return None if self.reference is None else self.reference.miou

    @property
    def stale(self) -> bool:
        """Whether a trial was trained with a different code version than the current one."""
        return any(result.stale for result in self.finished)

    @property
    def parameters_m(self) -> float | None:
        """Parameters in millions."""
        return None if self.cost is None else self.cost.parameters_m

    @property
    def gflops(self) -> float | None:
        """Multiply-adds / 1e9 at the training crop's size."""
        return None if self.cost is None else self.cost.gflops

    @property
    def code_versions(self) -> set[str]:
        """The versions of the code of the finished runs, all current ones as one: the version
        of a row with a custom module or a model of a library counts that, too."""
        runs = [result for result in self.finished if result.run is not None]
        return {each.run.code if each.stale and each.run else CURRENT for each in runs}

    def run_values(self, name: str) -> set[str]:
        """Return the distinct values of `data`, `code`, `precision` or `workers` of the
        finished runs."""
        return {getattr(result.run, name) for result in self.finished if result.run is not None}


def build_rows(
    study: Study, results: Sequence[Result], costs: Mapping[str, ModelCost] | None = None
) -> list[Row]:
    """Return the rows in the order of the study file, without their differences (see
    `compare_rows`). costs: by trial name, if they are known before training."""
    groups: dict[_Group, list[Result]] = {}
    for result in results:
        groups.setdefault(_group(result.trial, result.trial.variant), []).append(result)
    return [_row(study, group, groups, costs or {}) for group in groups.values()]


def is_finished(result: Result) -> bool:
    """Whether a trial has a score, or needs none because it has no validation images."""
    return result.miou is not None or result.state is TrialState.FINISHED


def expected_difference(study: Study, rows: Iterable[Row]) -> tuple[float | None, str]:
    """Return the difference in points that the study should detect, and where it comes from:
    `report.expected_difference`, or else the smallest published one of the study's own setting."""
    if study.config.report.expected_difference is not None:
        return study.config.report.expected_difference, "`report.expected_difference`"
    published = [
        abs(row.published_difference)
        for row in rows
        if row.published_difference and not row.published_elsewhere
    ]
    return min(published, default=None), "the smallest published difference"


def in_setting(setting: Mapping[str, Any], trial: Trial) -> bool:
    """Whether a trial has the values of `setting`, by dotted key. A data set may be given by the
    last part of its location."""
    values = asdict(trial.experiment) | {VARIANT: trial.variant}
    location = trial.experiment.data.dataset
    return any(
        holds(setting, values | {"data": values["data"] | {"dataset": name}})
        for name in (location, location.rstrip("/").rpartition("/")[2])
    )


def _group(trial: Trial, variant: str) -> _Group:
    """Return the row of a variant with the grid cell and the sample of a trial."""
    sample = None if trial.sample is None else trial.sample.number
    return variant, tuple(map(str, trial.axes.values())), sample


def _row(
    study: Study,
    group: Sequence[Result],
    groups: Mapping[_Group, list[Result]],
    costs: Mapping[str, ModelCost],
) -> Row:
    trial = group[0].trial
    compared_to = study.config.compared_to(trial.variant) or ""
    theirs = groups.get(_group(trial, compared_to))
    published_difference = None
    if theirs and trial.published_miou is not None:
        other = theirs[0].trial.published_miou
        published_difference = None if other is None else trial.published_miou - other
    runs = [result.run for result in group if is_finished(result) and result.run is not None]
    return Row(
        variant=trial.variant,
        label=trial.label,
        axes=trial.axes,
        results=tuple(group),
        cost=_cost(group, costs),
        miou={r.trial.repetition: r.miou for r in group if r.miou is not None},
        best={r.trial.repetition: r.best for r in group if r.best is not None},
        compared_to=compared_to,
        reference=trial.reference,
        published_elsewhere=not in_setting(study.config.report.published_setting, trial),
        published_difference=published_difference,
        images_per_second=_mean(run.metrics.get("images_per_second") for run in runs),
        hours=_mean(run.hours for run in runs),
        entered={
            result.trial.experiment.seed: result.trial.entered.miou
            for result in group
            if result.trial.entered is not None
        },
        sample=trial.sample,
    )


def _cost(group: Sequence[Result], costs: Mapping[str, ModelCost]) -> ModelCost | None:
    for result in group:
        if result.trial.name in costs:
            return costs[result.trial.name]
    for result in group:
        metrics = result.run.metrics if result.run is not None else {}
        if "model/parameters_m" in metrics and "model/gflops" in metrics:
            crop = result.trial.experiment.data.crop
            return ModelCost(metrics["model/parameters_m"], metrics["model/gflops"], crop)
    return None


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def row_names(some: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return the labels of `some` of the rows, with their grid cells and samples unless all of a
    variant are included; `all rows` if all are."""
    if len(some) == len(rows) > 1:
        return "all rows"
    grid_cells: dict[str, list[str]] = {}
    for row in some:
        sample = () if row.sample is None else (f"sample {row.sample.number}",)
        grid_cells.setdefault(row.label, []).append(" ".join((*row.grid_cell, *sample)))
    labels = [row.label for row in rows]
    return ", ".join(
        label if labels.count(label) == len(cells) else f"{label} ({', '.join(cells)})"
        for label, cells in grid_cells.items()
    )


def group_rows(pairs: Iterable[tuple[_Key, Row]]) -> dict[_Key, list[Row]]:
    """Return the rows of each key, in order of first use."""
    groups: dict[_Key, list[Row]] = {}
    for key, row in pairs:
        groups.setdefault(key, []).append(row)
    return groups
