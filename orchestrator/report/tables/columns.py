"""The columns of the main table: which there are, in which order, and what they show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.report.rows.row import Row
from orchestrator.report.rows.scores import Score, find_score, shown_columns
from orchestrator.report.tables.cells import (
    EMPTY,
    axis_text,
    gflops_text,
    hours_text,
    mean_and_deviation,
    miou_text,
    number,
    p_text,
    row_difference,
    seeds_text,
    signed,
    significant_text,
)
from orchestrator.report.tables.latency import latency_header, latency_values
from orchestrator.study.config import StudyConfig
from orchestrator.study.published import PublishedRow
from orchestrator.study.sampling import value_text

# Columns with a higher `drop_rank` are left out of LaTeX tables, unless `report.columns` has them.
PAPER_RANK = 6


@dataclass(frozen=True)
class Column:
    """One column. key: as in `report.columns`. drop_rank: columns with the highest rank are dropped
    first if the table is too wide; columns of rank 0 are never dropped. group: header above this
    one, shared with the neighboring columns. bold: indices of the lines in bold."""

    name: str
    values: tuple[str, ...]
    numeric: bool = True
    drop_rank: int = 0
    key: str = ""
    group: str = ""
    bold: frozenset[int] = frozenset()

    @property
    def full_name(self) -> str:
        """The name, with its group's."""
        return f"{self.group}: {self.name}" if self.group else self.name


@dataclass(frozen=True)
class _Kind:
    """What a column shows of a row, and of a published row of another method."""

    name: str
    of_row: Callable[[Row], str]
    of_published: Callable[[PublishedRow], str] = lambda _: EMPTY
    drop_rank: int = 0


def metric_columns(
    config: StudyConfig, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> list[Column]:
    """Return the columns of `report.columns`, or all in the default order, without empty ones."""
    return [
        column
        for column in _requested(config, rows, published_rows)
        if column.drop_rank == 0 or any(value != EMPTY for value in column.values)
    ]


def empty_columns(config: StudyConfig, rows: Sequence[Row]) -> list[str]:
    """Return the keys of `report.columns` for which no trial with a score has a value."""
    if config.report.columns is None or not any(row.miou for row in rows):
        return []
    columns = _requested(config, rows, config.published)
    return [column.key for column in columns if set(column.values) <= {EMPTY}]


def _requested(
    config: StudyConfig, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> list[Column]:
    kinds, keys = _kinds(config, rows), config.report.columns
    if keys is None:
        hidden = set() if len(variants_compared_to(rows)) > 1 else {"compared_to"}
        if config.kind != "table":
            hidden |= {"difference", "p"}
        shown = {key: kind for key, kind in kinds.items() if key not in hidden}
        others = (key for key in shown_columns(config) if key not in kinds)
        by_metric = {key: _metric(config, rows, key) for key in others}
        shown = {"miou": shown["miou"], **by_metric, **shown}
        return [_column(key, kind, rows, published_rows) for key, kind in shown.items()]
    requested = {key: kinds.get(key) or _metric(config, rows, key) for key in keys}
    return [
        _column(key, replace(kind, drop_rank=min(kind.drop_rank, PAPER_RANK)), rows, published_rows)
        for key, kind in requested.items()
    ]


def sample_columns(config: StudyConfig, rows: Sequence[Row | None], blank: int = 0) -> list[Column]:
    """Return the columns with number and values of the rows' samples, none if the study does not
    sample. blank: number of empty lines after the rows."""
    if not config.sample:
        return []
    samples = [*(None if row is None else row.sample for row in rows), *[None] * blank]
    numbers = tuple(EMPTY if each is None else str(each.number) for each in samples)
    columns = [Column("sample", numbers, key="sample")]
    for key in config.sample:
        texts = tuple(EMPTY if s is None else value_text(s.values.get(key)) for s in samples)
        columns.append(Column(key.split(".")[-1], texts, key=key))
    return columns


def variants_compared_to(rows: Sequence[Row]) -> list[str]:
    """Return the variants that rows are compared to."""
    return list(dict.fromkeys(row.compared_to for row in rows if row.compared_to))


def row_label(config: StudyConfig, variant: str) -> str:
    """Return the label of a variant."""
    return config.variants[variant].label or variant


def own_published(row: Row) -> float | None:
    """Return the published mIoU of a row if it is of the row's own setting."""
    return None if row.published_elsewhere else row.published


def own_published_difference(row: Row) -> float | None:
    """Return the published difference of a row if it is of the row's own setting."""
    return None if row.published_elsewhere else row.published_difference


def setting_text(config: StudyConfig) -> str:
    """Return the setting of the published values, such as `cityscapes, resnet18`."""
    return ", ".join(map(axis_text, config.report.published_setting.values()))


def _kinds(config: StudyConfig, rows: Sequence[Row]) -> dict[str, _Kind]:
    """Return the columns that are not metrics of the tracking store, in their default order."""
    compared, difference = variants_compared_to(rows), "difference"
    if len(compared) == 1:
        difference += f" to {row_label(config, compared[0])}"
    if any(row.difference and row.difference.interval for row in rows):
        difference += " [95\u00a0% CI]"
    setting = setting_text(config)
    # Published rows of other methods have the setting of the other published values.
    apart = bool(setting) and not any(own_published(row) for row in rows)
    return {
        "miou": _Kind("mIoU %", miou_text),
        "n": _Kind("n", seeds_text, drop_rank=2),
        "compared_to": _Kind(
            "compared to",
            lambda row: row_label(config, row.compared_to) if row.compared_to else EMPTY,
            drop_rank=1,
        ),
        "difference": _Kind(
            difference, lambda row: row_difference(row, row.difference), drop_rank=1
        ),
        "p": _Kind(
            "p, adjusted",
            lambda row: p_text(row.difference.p_adjusted if row.difference else None),
            drop_rank=3,
        ),
        "entered": _Kind(
            "entered %",
            lambda row: mean_and_deviation(list(row.entered.values())),
            drop_rank=2,
        ),
        "published": _Kind(
            "published %",
            lambda row: number(own_published(row), 1),
            lambda published: number(None if apart else published.miou, 1),
            drop_rank=1,
        ),
        "published_difference": _Kind(
            "published diff.",
            lambda row: signed(own_published_difference(row), 1),
            drop_rank=4,
        ),
        "published_elsewhere": _Kind(
            f"published % ({setting or 'other setting'})",
            lambda row: number(row.published if row.published_elsewhere else None, 1),
            lambda published: number(published.miou if apart else None, 1),
            drop_rank=4,
        ),
        "best": _Kind(
            "best epoch %", lambda row: mean_and_deviation(list(row.best.values())), drop_rank=8
        ),
        "parameters_m": _Kind(
            "params M",
            lambda row: number(row.parameters_m, 2),
            lambda published: number(published.parameters_m, 2),
            drop_rank=5,
        ),
        "gflops": _Kind(
            f"GFLOPs{_common_size(rows)}",
            lambda row: gflops_text(row.gflops),
            lambda published: gflops_text(published.gflops),
            drop_rank=6,
        ),
        "latency_ms": _Kind(
            latency_header(config.latency),
            lambda row: significant_text(latency_values(config, row, "latency_ms")),
            drop_rank=6,
        ),
        "inference_memory_gib": _Kind(
            "inference GiB",
            lambda row: significant_text(latency_values(config, row, "inference_memory_gib")),
            drop_rank=7,
        ),
        "images_per_second": _Kind(
            "images/s", lambda row: number(row.images_per_second, 1), drop_rank=7
        ),
        "hours": _Kind("hours", lambda row: hours_text(row.hours), drop_rank=7),
    }


def _metric(config: StudyConfig, rows: Sequence[Row], key: str) -> _Kind:
    """Return the column of a metric of the runs: a score under the report's protocol, such as
    `iou/pole`, the difference in one, or else a metric by its full name, such as `memory_gib`."""
    if key.startswith("difference/"):
        return _difference(config, rows, key.removeprefix("difference/"))
    score = find_score(config, rows, key)
    if score is not None:
        return _Kind(score.name, lambda row: _score_text(score, row), drop_rank=1)
    names = [key, f"model/{key}"]

    def text(row: Row) -> str:
        metrics = [result.run.metrics for result in row.finished if result.run is not None]
        values = [value for each in metrics if (value := _first(each, names)) is not None]
        return f"{sum(values) / len(values):.4g}" if values else EMPTY

    return _Kind(key, text, drop_rank=1)


def _score_text(score: Score, row: Row) -> str:
    values = list(score.values(row).values())
    return mean_and_deviation(values, 1 if score.factor == 100 else 3)


def _difference(config: StudyConfig, rows: Sequence[Row], key: str) -> _Kind:
    """Return the column of the differences in another metric than mIoU."""
    score = find_score(config, rows, key)
    name = f"difference in {score.label if score else key}"
    if any(key in row.differences and row.differences[key].interval for row in rows):
        name += " [95\u00a0% CI]"
    digits = 2 if score is None or score.factor == 100 else 4
    return _Kind(
        name, lambda row: row_difference(row, row.differences.get(key), digits), drop_rank=1
    )


def _first(metrics: Mapping[str, float], names: Sequence[str]) -> float | None:
    return next((metrics[name] for name in names if name in metrics), None)


def _column(
    key: str, kind: _Kind, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> Column:
    values = (*map(kind.of_row, rows), *map(kind.of_published, published_rows))
    bold = {
        index
        for index, row in enumerate(rows)
        if key == "difference" and row.difference and row.difference.significant
    }
    numeric = key != "compared_to"
    return Column(kind.name, values, numeric, kind.drop_rank, key, bold=frozenset(bold))


def _common_size(rows: Sequence[Row]) -> str:
    sizes = {row.cost.size for row in rows if row.cost is not None}
    if len(sizes) != 1:
        return ""
    ((height, width),) = sizes
    return f" at {height}x{width}"
