"""Builds the report's tables as columns of text, independent of the output format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.report.rows.comparisons import OverallDifference
from orchestrator.report.rows.row import Row
from orchestrator.report.tables.cells import (
    EMPTY,
    axis_text,
    difference_text,
    gflops_text,
    miou_text,
    number,
    p_text,
    row_difference,
    row_marks,
    signed,
    unscored,
)
from orchestrator.report.tables.columns import (
    Column,
    metric_columns,
    row_label,
    sample_columns,
    setting_text,
)
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study

GridCell = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of columns of equal length.

    sections: titles of the sections, by the index of their first line.
    published: number of lines at the end that are published rows of other methods.
    name: distinguishes the tables of a study in labels; empty for the main one.
    """

    columns: tuple[Column, ...]
    sections: Mapping[int, str] = field(default_factory=dict)
    published: int = 0
    name: str = ""

    def without_published(self) -> "Table":
        """Return the table without the published rows of other methods."""
        end = len(self.columns[0].values) - self.published
        columns = (replace(column, values=column.values[:end]) for column in self.columns)
        sections = {index: title for index, title in self.sections.items() if index < end}
        return replace(self, columns=tuple(columns), sections=sections, published=0)

    def without_axes(self) -> "Table":
        """Return the table without the columns of grid axes if the sections' titles have them. The
        labels of published rows then have the values."""
        end = len(self.columns[0].values) - self.published
        if not any(title for index, title in self.sections.items() if index < end):
            return self
        text = ("variant", "compared_to", "")
        axes = [c.values for c in self.columns if not c.numeric and c.key not in text]
        labels = list(self.columns[0].values)
        for index in range(end, len(labels)):
            values = [axis[index] for axis in axes if axis[index] != EMPTY]
            labels[index] += f" ({', '.join(values)})" if values else ""
        first, *rest = (c for c in self.columns if c.numeric or c.key in text)
        return replace(self, columns=(replace(first, values=tuple(labels)), *rest))

    @property
    def breaks(self) -> frozenset[int]:
        """Indices of the lines before which there is a rule."""
        return frozenset(self.sections) - {0}

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """The texts of the cells, line by line."""
        return list(zip(*(column.values for column in self.columns), strict=True))

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the columns, which notes refer to."""
        return frozenset(column.key for column in self.columns)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The headers above the columns, each with the number of columns it spans."""
        groups: list[tuple[str, int]] = []
        for column in self.columns:
            if groups and column.group and groups[-1][0] == column.group:
                groups[-1] = column.group, groups[-1][1] + 1
            else:
                groups.append((column.group, 1))
        return groups if any(name for name, _ in groups) else []


def main_table(study: Study, rows: Sequence[Row], published_rows: Sequence[PublishedRow]) -> Table:
    """Return the table with one line per row, sorted by grid cell, followed by the published rows
    of other methods."""
    grid_cells = list(dict.fromkeys(row.grid_cell for row in rows))
    rows = sorted(rows, key=lambda row: grid_cells.index(row.grid_cell))
    if study.config.kind == "profile":
        return _profile_table(study, rows, published_rows)
    columns = [
        *_names(study, rows, published_rows),
        *metric_columns(study.config, rows, published_rows),
    ]
    return _table(columns, rows, published_rows)


def grid_table(
    study: Study, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> Table | None:
    """Return the table as papers lay it out: one line per variant; for each grid cell, mIoU, the
    difference with its interval, and the published value. None if the grid has a single cell.

    Published rows of other methods are included if their `when` names an axis of the grid.
    """
    grid_cells = list(dict.fromkeys(row.grid_cell for row in rows))
    if len(grid_cells) < 2 or study.config.kind == "profile":
        return None
    titles = cell_titles(rows)
    labels = {row.variant: row.label for row in rows}
    by_cell = {(row.variant, row.grid_cell): row for row in rows}
    published_rows = published_in_grid(study, published_rows)
    with_interval = any(row.difference and row.difference.interval for row in rows)
    names = (*labels.values(), *(each.label for each in published_rows))
    columns = [Column("variant", names, numeric=False, key="variant")]
    for grid_cell in grid_cells:
        axes = next(row.axes for row in rows if row.grid_cell == grid_cell)
        cells = [by_cell.get((variant, grid_cell)) for variant in labels]
        significant = {
            index
            for index, row in enumerate(cells)
            if row and row.difference and row.difference.significant
        }
        elsewhere = any(row is not None and row.published_elsewhere for row in cells)
        setting = f" ({setting_text(study.config)})" if elsewhere else ""
        published_name = f"published %{setting}"
        theirs = [
            number(each.miou if applies_to(each, axes) else None, 1) for each in published_rows
        ]
        blank = [EMPTY] * len(published_rows)
        for key, name, values, other_values, drop_rank in (
            ("miou", "mIoU %", [_grid_miou(row) for row in cells], blank, 0),
            (
                "difference",
                "difference [95\u00a0% CI]" if with_interval else "difference",
                [EMPTY if row is None else row_difference(row, row.difference) for row in cells],
                blank,
                1,
            ),
            (
                "published",
                published_name,
                [number(None if row is None else row.published, 1) for row in cells],
                theirs,
                2,
            ),
        ):
            texts = (*values, *other_values)
            bold = frozenset(significant if key == "difference" else ())
            if drop_rank == 0 or any(text != EMPTY for text in texts):
                title = titles[grid_cell]
                columns.append(Column(name, texts, True, drop_rank, key, title, bold))
    sections = {len(labels): ""} if published_rows else {}
    return Table(tuple(columns), sections, len(published_rows), "grid")


def published_in_grid(study: Study, published_rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Return the published rows of other methods that the table of the grid has."""
    return [row for row in published_rows if any(axis in row.when for axis in study.config.grid)]


def overall_table(study: Study, rows: Sequence[Row], overall: Sequence[OverallDifference]) -> Table:
    """Return the table of differences over all cells of the grid: one line per variant, with the
    difference in each cell, their mean, and whether they differ."""
    titles = cell_titles(rows)
    differences = [each.difference for each in overall]
    labels = tuple(each.label for each in overall)
    columns = [Column("variant", labels, numeric=False, key="variant")]
    if len({each.compared_to for each in overall}) > 1:
        compared = tuple(row_label(study.config, each.compared_to) for each in overall)
        columns.append(Column("compared to", compared, numeric=False, key="compared_to"))
    for cell in dict.fromkeys(cell for each in overall for cell in each.by_cell):
        values = tuple(signed(each.by_cell.get(cell)) for each in overall)
        columns.append(Column(titles.get(cell, ", ".join(cell)), values))
    significant = frozenset(i for i, each in enumerate(differences) if each.significant)
    texts = tuple(map(difference_text, differences))
    adjusted = tuple(p_text(each.p_adjusted) for each in differences)
    interaction = tuple(p_text(each.interaction_p) for each in overall)
    columns += [
        Column("mean difference [95\u00a0% CI]", texts, key="overall", bold=significant),
        Column("p, adjusted", adjusted, key="overall_p"),
        Column("p, interaction", interaction, drop_rank=1, key="interaction"),
    ]
    return Table(tuple(columns), name="overall")


def cell_titles(rows: Sequence[Row]) -> dict[GridCell, str]:
    """Return the title of each grid cell. Of a path or URI, only the last part is shown if it
    distinguishes the cells."""
    cells = list(dict.fromkeys(row.grid_cell for row in rows))
    short = {
        cell: tuple(value.rstrip("/").split("/")[-1] or value for value in cell) for cell in cells
    }
    names = short if len(set(short.values())) == len(cells) else {cell: cell for cell in cells}
    return {cell: ", ".join(name) for cell, name in names.items()}


def applies_to(published_row: PublishedRow, axes: Mapping[str, Any]) -> bool:
    """Whether a published row is for the grid cell with these axes."""
    return all(
        axis not in axes
        or str(axes[axis]) in map(str, value if isinstance(value, list | tuple) else [value])
        for axis, value in published_row.when.items()
    )


def _profile_table(
    study: Study, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> Table:
    """Return the table of parameters and FLOPs, with the published ones and the differences."""
    references = [row.reference for row in rows]
    columns = _names(study, rows, published_rows)
    blank = [EMPTY] * len(published_rows)
    for name, text, ours, theirs, published in (
        (
            "params M",
            lambda value: number(value, 2),
            [row.parameters_m for row in rows],
            [each.parameters_m if each else None for each in references],
            [each.parameters_m for each in published_rows],
        ),
        (
            "GFLOPs",
            gflops_text,
            [row.gflops for row in rows],
            [each.gflops if each else None for each in references],
            [each.gflops for each in published_rows],
        ),
    ):
        differences = [
            f"{100 * (value / reference - 1):+.2f} %" if value and reference else EMPTY
            for value, reference in zip(ours, theirs, strict=True)
        ]
        columns += [
            Column(name, (*map(text, ours), *blank)),
            Column("published", tuple(map(text, (*theirs, *published)))),
            Column("difference", (*differences, *blank)),
        ]
    return _table(columns, rows, published_rows)


def _names(
    study: Study, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> list[Column]:
    labels = [row.label + row_marks(row) for row in rows]
    labels += [each.label for each in published_rows]
    columns = [Column("variant", tuple(labels), numeric=False, key="variant")]
    for axis in study.config.grid:
        values = [str(row.axes[axis]) for row in rows]
        theirs = [axis_text(each.when.get(axis)) for each in published_rows]
        name = axis.split(".")[-1]
        columns.append(Column(name, (*values, *theirs), numeric=False, key=axis))
    return [*columns, *sample_columns(study.config, rows, len(published_rows))]


def _table(
    columns: Sequence[Column], rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> Table:
    titles = cell_titles(rows)
    sections = {
        i: titles[row.grid_cell]
        for i, row in enumerate(rows)
        if len(titles) > 1 and (i == 0 or row.grid_cell != rows[i - 1].grid_cell)
    }
    if published_rows:
        sections[len(rows)] = "other methods, published"
    return Table(tuple(columns), sections, len(published_rows))


def _grid_miou(row: Row | None) -> str:
    """Return mean and standard deviation, and the states of seeds without a score."""
    if row is None:
        return EMPTY
    text = miou_text(row)
    missing = unscored(row)
    if missing and row.miou:
        text += f", {missing}"
    return text + row_marks(row)
