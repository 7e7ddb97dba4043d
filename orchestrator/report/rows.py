"""The rows of a study's table: one per variant and grid cell, aggregated over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.report.results import Result
from orchestrator.report.significance import Difference, compare, holm
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.published import Reference
from orchestrator.study.study import Study


@dataclass(frozen=True)
class Row:
    """One row of the table.

    results: of all trials of the row, finished or not.
    cost: None if neither a run nor a data set determines the number of classes.
    miou, best: in percent, by seed, of the trials that have a score.
    difference: to `compare_to` in the same grid cell; None if it cannot be computed.
    corrected_p: p value of the difference, corrected by Holm's method.
    mixed_difference: whether it pairs trainings with different code or precision.
    incomparable: why the row must not be compared with `compare_to`; empty if it may.
    images_per_second, hours: means over the trials that have a score.
    entered: scores in percent entered by hand, by seed.
    """

    variant: str
    label: str
    axes: dict[str, Any]
    results: tuple[Result, ...]
    cost: ModelCost | None
    miou: dict[int, float]
    best: dict[int, float]
    difference: Difference | None
    corrected_p: float | None
    mixed_difference: bool
    incomparable: str
    reference: Reference | None
    published_difference: float | None
    images_per_second: float | None
    hours: float | None
    entered: dict[int, float]

    @property
    def grid_cell(self) -> tuple[str, ...]:
        """The row's cell of the grid: the axes' values as text."""
        return tuple(map(str, self.axes.values()))

    @property
    def finished(self) -> tuple[Result, ...]:
        """The results that have a score."""
        return tuple(result for result in self.results if result.miou is not None)

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

    def run_values(self, name: str) -> set[str]:
        """Return the distinct values of `data`, `code` or `precision` of the runs with a score."""
        return {getattr(result.run, name) for result in self.finished if result.run is not None}


def build_rows(
    study: Study, results: Sequence[Result], costs: Mapping[str, ModelCost] | None = None
) -> list[Row]:
    """Return the rows in the order of the study file. costs: by trial name, if they are known
    before training."""
    groups: dict[tuple[str, tuple[str, ...]], list[Result]] = {}
    for result in results:
        grid_cell = tuple(map(str, result.trial.axes.values()))
        groups.setdefault((result.trial.variant, grid_cell), []).append(result)
    compare_to = study.config.compare_to or ""
    rows = []
    for (variant, grid_cell), group in groups.items():
        base = groups.get((compare_to, grid_cell), []) if variant != compare_to else []
        # The trials of a search may be stopped early, so their scores are not compared.
        rows.append(_row(study, group, base if study.config.kind == "table" else [], costs or {}))
    p_values = [row.difference.p if row.difference else None for row in rows]
    return [
        replace(row, corrected_p=corrected)
        for row, corrected in zip(rows, holm(p_values), strict=True)
    ]


def pooled_deviation(rows: Iterable[Row]) -> float | None:
    """Return the standard deviation over seeds of the paired differences in points, pooled over
    all rows; None if no row has two shared seeds."""
    squares, freedom = 0.0, 0
    for row in rows:
        if row.difference is not None and row.difference.deviation is not None:
            count = len(row.difference.seeds) - 1
            squares += count * row.difference.deviation**2
            freedom += count
    return (squares / freedom) ** 0.5 if freedom else None


def expected_difference(study: Study, rows: Iterable[Row]) -> float | None:
    """Return the difference in points that the study should detect: `report.expected_difference`,
    or else the smallest published one."""
    if study.config.report.expected_difference is not None:
        return study.config.report.expected_difference
    published = [abs(row.published_difference) for row in rows if row.published_difference]
    return min(published, default=None)


def _row(
    study: Study, group: Sequence[Result], base: Sequence[Result], costs: Mapping[str, ModelCost]
) -> Row:
    trial = group[0].trial
    incomparable = _incomparable(study, group, base)
    difference = None
    # Two variants that share a run are the same training, so there is nothing to compare.
    if base and not incomparable and not _runs(group) & _runs(base):
        difference = compare(_by_seed(group), _by_seed(base), *_resampled(group, base))
    published_difference = None
    if base and trial.published_miou is not None and base[0].trial.published_miou is not None:
        published_difference = trial.published_miou - base[0].trial.published_miou
    runs = [result.run for result in group if result.miou is not None and result.run is not None]
    return Row(
        variant=trial.variant,
        label=trial.label,
        axes=trial.axes,
        results=tuple(group),
        cost=_cost(group, costs),
        miou=_by_seed(group),
        best={r.trial.experiment.seed: r.best for r in group if r.best is not None},
        difference=difference,
        corrected_p=None,
        mixed_difference=difference is not None and _is_mixed(group, base, difference.seeds),
        incomparable=incomparable,
        reference=trial.reference,
        published_difference=published_difference,
        images_per_second=_mean(run.metrics.get("images_per_second") for run in runs),
        hours=_mean(run.hours for run in runs),
        entered={
            result.trial.experiment.seed: result.trial.entered.miou
            for result in group
            if result.trial.entered is not None
        },
    )


def _runs(group: Sequence[Result]) -> set[str]:
    return {result.run.run_id for result in group if result.run is not None}


def _is_mixed(group: Sequence[Result], base: Sequence[Result], seeds: Iterable[int]) -> bool:
    """Whether the two trainings of some seed differ in code or precision."""
    ours, theirs = (
        {r.trial.experiment.seed: (r.run.code, r.run.precision) for r in each if r.run is not None}
        for each in (group, base)
    )
    return any(ours[seed] != theirs[seed] for seed in seeds)


def _by_seed(group: Sequence[Result]) -> dict[int, float]:
    return {r.trial.experiment.seed: r.miou for r in group if r.miou is not None}


def _incomparable(study: Study, group: Sequence[Result], base: Sequence[Result]) -> str:
    """Return why the two must not be compared; empty if they may."""
    runs = [
        result.run
        for result in (*group, *base)
        if result.miou is not None and result.run is not None
    ]
    if not base:
        return ""
    protocols = {each[0].trial.experiment.evaluation.protocol for each in (group, base)}
    if study.config.report.protocol is None and len(protocols) > 1:
        return "scored under different protocols"
    if len({each[0].trial.experiment.data.validation_split for each in (group, base)}) > 1:
        return "scored on different splits"
    if len({run.data for run in runs}) > 1:
        return "trained on different versions of the data set"
    return ""


def _resampled(group: Sequence[Result], base: Sequence[Result]) -> tuple[dict[int, Any], ...]:
    """Return the mIoU in percent of the replicates, by seed, for `group` and for `base`; both empty
    unless all were scored on the same images and classes."""
    counts = [r.counts for r in (*group, *base) if r.counts is not None]
    comparable = all(
        each.identifiers == counts[0].identifiers and each.classes == counts[0].classes
        for each in counts
    )
    return tuple(
        {
            r.trial.experiment.seed: 100 * r.counts.resampled
            for r in each
            if r.counts is not None and comparable
        }
        for each in (group, base)
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
