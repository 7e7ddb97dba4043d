"""The rows of a study's table: each variant in each cell of the grid, its seeds put together."""

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
    """One row. Figures are in percent, by seed, of the finished trials.

    results: of all its trials, finished or not. cost: None where no run and no data set says how
    many classes there are. difference: to `compare_to` in the same cell; corrected: its p after
    Holm. unlike: whether it pairs trainings by different code or in different precision.
    incomparable: why there is none although both rows have figures. images_per_second and hours:
    mean over the finished trials. entered: scores entered by hand.
    """

    variant: str
    label: str
    axes: dict[str, Any]
    results: tuple[Result, ...]
    cost: ModelCost | None
    miou: dict[int, float]
    best: dict[int, float]
    difference: Difference | None
    corrected: float | None
    unlike: bool
    incomparable: str
    reference: Reference | None
    published_difference: float | None
    images_per_second: float | None
    hours: float | None
    entered: dict[int, float]

    @property
    def place(self) -> tuple[str, ...]:
        """The cell of the grid, as texts."""
        return tuple(map(str, self.axes.values()))

    @property
    def finished(self) -> tuple[Result, ...]:
        """Its trials that have a figure."""
        return tuple(result for result in self.results if result.miou is not None)

    @property
    def published(self) -> float | None:
        """mIoU in percent that was published for this row."""
        return None if self.reference is None else self.reference.miou

    @property
    def stale(self) -> bool:
        """Whether a trial was trained by another version of the code than the present one."""
        return any(result.stale for result in self.finished)

    @property
    def parameters_m(self) -> float | None:
        """Parameters in millions."""
        return None if self.cost is None else self.cost.parameters_m

    @property
    def gflops(self) -> float | None:
        """Multiply-adds / 1e9 at the training crop's size."""
        return None if self.cost is None else self.cost.gflops

    def kinds(self, what: str) -> set[str]:
        """The `data`, `code` or `precision` its finished trials were trained with."""
        return {getattr(result.run, what) for result in self.finished if result.run is not None}


def build_rows(
    study: Study, results: Sequence[Result], costs: Mapping[str, ModelCost] | None = None
) -> list[Row]:
    """The rows in the order of the study file. costs: by the trial's name, where they are known
    before anything is trained."""
    groups: dict[tuple[str, tuple[str, ...]], list[Result]] = {}
    for result in results:
        place = tuple(map(str, result.trial.axes.values()))
        groups.setdefault((result.trial.variant, place), []).append(result)
    compare_to = study.config.compare_to or ""
    rows = []
    for (variant, place), group in groups.items():
        base = groups.get((compare_to, place), []) if variant != compare_to else []
        # A search gives trials up early: there is nothing to compare.
        rows.append(_row(study, group, base if study.config.kind == "table" else [], costs or {}))
    p_values = [row.difference.p if row.difference else None for row in rows]
    return [
        replace(row, corrected=corrected)
        for row, corrected in zip(rows, holm(p_values), strict=True)
    ]


def pooled_deviation(rows: Iterable[Row]) -> float | None:
    """Standard deviation over seeds of the paired differences, pooled over all rows that have one,
    in points; None before any row has two seeds."""
    squares, freedom = 0.0, 0
    for row in rows:
        if row.difference is not None and row.difference.deviation is not None:
            count = len(row.difference.seeds) - 1
            squares += count * row.difference.deviation**2
            freedom += count
    return (squares / freedom) ** 0.5 if freedom else None


def expected_difference(study: Study, rows: Iterable[Row]) -> float | None:
    """The least difference the study must be able to show, in points: as stated, or the least that
    was published."""
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
    # Two names of one training are one: there is nothing to compare.
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
        corrected=None,
        unlike=difference is not None and _unlike(group, base, difference.seeds),
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


def _unlike(group: Sequence[Result], base: Sequence[Result], seeds: Iterable[int]) -> bool:
    """Whether a seed's two trainings are by different code or in different precision."""
    kinds = [
        {r.trial.experiment.seed: (r.run.code, r.run.precision) for r in each if r.run is not None}
        for each in (group, base)
    ]
    return any(kinds[0][seed] != kinds[1][seed] for seed in seeds)


def _by_seed(group: Sequence[Result]) -> dict[int, float]:
    return {r.trial.experiment.seed: r.miou for r in group if r.miou is not None}


def _incomparable(study: Study, group: Sequence[Result], base: Sequence[Result]) -> str:
    """Why the two must not be subtracted; empty where they may."""
    both = [
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
    if len({run.data for run in both}) > 1:
        return "trained on different versions of the data set"
    return ""


def _resampled(group: Sequence[Result], base: Sequence[Result]) -> tuple[dict[int, Any], ...]:
    """mIoU in percent of the replicates, by seed, of what was scored on the same images."""
    scored = [[r for r in each if r.scored is not None] for each in (group, base)]
    everything = [r.scored for each in scored for r in each if r.scored is not None]
    alike = all(
        entry.identifiers == everything[0].identifiers and entry.classes == everything[0].classes
        for entry in everything
    )
    return tuple(
        {
            r.trial.experiment.seed: 100 * r.scored.resampled
            for r in each
            if r.scored is not None and alike
        }
        for each in scored
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
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
