"""The report's tables, independent of the output format."""

from typing import Any

import numpy as np
import pytest

from orchestrator.report.rows.comparisons import Comparisons
from orchestrator.report.rows.row import build_rows
from orchestrator.report.tables.columns import Column
from orchestrator.report.tables.table import (
    Table,
    applies_to,
    cell_titles,
    grid_table,
    main_table,
    overall_table,
    published_in_grid,
)
from orchestrator.study.published import PublishedRow
from tests.support.known_results import GRID_SCORES, known_grid, known_result, study_of

AXES = (
    Column("variant", ("a", "a", "GFFNet", "GFFNet", "CCNet"), numeric=False, key="variant"),
    Column("backbone", ("r18", "r50", "r18", "r50", "-"), numeric=False, key="model.backbone"),
    Column("mIoU %", ("70", "71", "72", "73", "74"), key="miou"),
)


def test_labels_of_published_rows_have_the_axes_that_are_left_out() -> None:
    table = Table(AXES, {0: "r18", 1: "r50", 2: "other methods, published"}, 3).without_axes()
    assert [column.key for column in table.columns] == ["variant", "miou"]
    labels = ("a", "a", "GFFNet (r18)", "GFFNet (r50)", "CCNet")
    assert table.columns[0].values == labels
    assert table.without_axes() == table


def test_axes_remain_if_no_section_of_trained_rows_has_a_title() -> None:
    table = Table(AXES, {2: "other methods, published"}, 3)
    assert table.without_axes() == table


def numbers(batch: int, variant: str) -> np.ndarray:
    return np.array(GRID_SCORES[batch][variant])


def mean_text(batch: int, variant: str) -> str:
    scores = numbers(batch, variant)
    return f"{scores.mean():.1f} ± {scores.std(ddof=1):.1f}"


def mean_difference(batch: int, variant: str, base: str) -> float:
    pairs = zip(numbers(batch, variant), numbers(batch, base), strict=False)
    return float(np.mean([score - other for score, other in pairs]))


def by_key(table: Table, group: str = "") -> dict[str, tuple[str, ...]]:
    """Return the values of the columns in a group."""
    return {column.key: column.values for column in table.columns if column.group == group}


def adjusted(comparisons: Comparisons) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return Holm's p values by variant and grid cell; () is over all cells."""
    tested = {(row.variant, row.grid_cell): row.difference for row in comparisons.rows}
    tested |= {(each.variant, ()): each.difference for each in comparisons.overall}
    p = {name: each.p for name, each in tested.items() if each is not None and each.p is not None}
    highest, found = 0.0, {}
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = found[name] = max(highest, min(1.0, (len(p) - rank) * p[name]))
    return found


def test_main_table_has_a_line_for_each_row_by_cell() -> None:
    study, found = known_grid()
    table = main_table(study, found.rows, study.config.published)
    columns = by_key(table)
    lines = [(batch, variant) for batch in (8, 16) for variant in "abc"]
    assert columns["variant"] == (*(variant for _, variant in lines), "X")
    assert columns["training.batch"] == (*(str(batch) for batch, _ in lines), "8")
    assert table.sections == {0: "8", 3: "16", 6: "other methods, published"}
    assert columns["miou"] == (*(mean_text(*line) for line in lines), "-")
    assert columns["n"] == ("3", "3", "3", "3", "2 of 3", "3", "-")
    assert columns["compared_to"] == ("-", "a", "b", "-", "a", "b", "-")
    assert columns["best"][0] == f"{numbers(8, 'a').mean() + 0.25:.1f} ± 0.3"
    assert columns["entered"] == ("-", "69.5", "-", "-", "69.5", "-", "-")
    # The values for a batch of 8 are not those of the rows with 16.
    assert columns["published"] == ("70.0", "71.5", "-", "-", "-", "-", "73.2")
    assert columns["published_elsewhere"] == ("-", "-", "-", "70.0", "71.5", "-", "-")
    assert columns["published_difference"] == ("-", "+1.5", "-", "-", "-", "-", "-")
    assert columns["images_per_second"] == (*["21.0"] * 4, "20.5", "21.0", "-")
    assert columns["hours"] == (*["0.50"] * 4, "0.38", "0.50", "-")
    p = adjusted(found)
    (difference,) = (column for column in table.columns if column.key == "difference")
    for index, (batch, variant) in enumerate(lines):
        base = {"a": "", "b": "a", "c": "b"}[variant]
        if not base:
            assert columns["difference"][index] == columns["p"][index] == "-"
            continue
        text = f"{mean_difference(batch, variant, base):+.2f} ["
        assert columns["difference"][index].startswith(text)
        assert columns["p"][index] == f"{p[variant, (str(batch),)]:.3f}"
        assert (index in difference.bold) == (p[variant, (str(batch),)] < 0.05)
    assert difference.bold
    assert not any(column.bold for column in table.columns if column is not difference)


def test_published_values_of_another_setting_have_a_column_of_their_own() -> None:
    """Also those of other methods, which have the setting of the others."""
    study, found = known_grid()
    rows = [row for row in found.rows if row.grid_cell == ("16",)]
    columns = by_key(main_table(study, rows, study.config.published))
    assert "published" not in columns
    assert columns["published_elsewhere"] == ("70.0", "71.5", "-", "73.2")


def test_grid_table_has_the_columns_of_each_cell() -> None:
    study, found = known_grid()
    table = grid_table(study, found.rows, study.config.published)
    assert table is not None
    assert by_key(table)["variant"] == ("a", "b", "c", "X")
    assert table.groups == [("", 1), ("8", 3), ("16", 3)]
    first, second = by_key(table, "8"), by_key(table, "16")
    assert first["miou"] == (*(mean_text(8, variant) for variant in "abc"), "-")
    texts = [mean_text(16, variant) for variant in "abc"]
    assert second["miou"] == (texts[0], f"{texts[1]}, 1 failed", texts[2], "-")
    assert first["difference"][1].startswith(f"{mean_difference(8, 'b', 'a'):+.2f} [")
    assert second["difference"][2].startswith(f"{mean_difference(16, 'c', 'b'):+.2f} [")
    # Of the published rows, those for the cell.
    assert first["published"] == ("70.0", "71.5", "-", "73.2")
    assert second["published"] == ("70.0", "71.5", "-", "-")
    p = adjusted(found)
    significant = {
        ("difference", batch): {
            index for index, variant in enumerate("abc") if p.get((variant, (batch,)), 1) < 0.05
        }
        for batch in ("8", "16")
    }
    assert significant["difference", "8"] == {1, 2}
    for column in table.columns:
        assert column.bold == significant.get((column.key, column.group), set())


@pytest.mark.parametrize(
    ("when", "in_grid", "applies"),
    [
        ({}, False, True),
        ({"training.batch": 8}, True, True),
        ({"training.batch": [8, 16], "data.dataset": "streets"}, True, True),
        ({"training.batch": 8, "data.dataset": "woods"}, True, False),
        ({"training.batch": 16}, True, False),
    ],
)
def test_published_rows_are_for_the_cells_of_their_condition(
    when: dict[str, Any], in_grid: bool, applies: bool
) -> None:
    grid = {"training.batch": [8, 16], "data.dataset": ["streets", "woods"]}
    study = study_of(variants={"a": {}}, grid=grid)
    row = PublishedRow("X", 70.0, when=when)
    assert published_in_grid(study, [row]) == [row] * in_grid
    assert applies_to(row, {"training.batch": 8, "data.dataset": "streets"}) == applies
    assert applies_to(row, {"model.channels": 8})  # no axis of the condition


def test_overall_table_has_the_differences_of_each_cell_and_their_mean() -> None:
    study, found = known_grid()
    table = overall_table(study, found.rows, found.overall)
    columns = {column.name: column.values for column in table.columns}
    assert (columns["variant"], columns["compared to"]) == (("b", "c"), ("a", "b"))
    pairs = (("b", "a"), ("c", "b"))
    differences = {
        batch: [mean_difference(batch, variant, base) for variant, base in pairs]
        for batch in (8, 16)
    }
    for batch, values in differences.items():
        assert columns[str(batch)] == tuple(f"{value:+.2f}" for value in values)
    p = adjusted(found)
    assert columns["p, adjusted"] == tuple(f"{p[variant, ()]:.3f}" for variant in "bc")
    assert columns["p, interaction"] == tuple(f"{each.interaction_p:.3f}" for each in found.overall)
    means = columns["mean difference [95\u00a0% CI]"]
    for text, values in zip(means, zip(*differences.values(), strict=True), strict=True):
        assert text.startswith(f"{np.mean(values):+.2f} [")
    assert [column.bold for column in table.columns if column.bold] == [
        {index for index, variant in enumerate("bc") if p[variant, ()] < 0.05}
    ]


@pytest.mark.parametrize(
    ("values", "titles"),
    [
        (["/sets/streets/", "s3://bucket/woods"], ["streets", "woods"]),
        (["/small/streets", "/large/streets"], ["/small/streets", "/large/streets"]),
    ],
)
def test_titles_of_cells_tell_them_apart(values: list[str], titles: list[str]) -> None:
    study = study_of(variants={"a": {}}, grid={"data.dataset": values})
    rows = build_rows(study, [known_result(trial, 70.0) for trial in study.trials])
    assert list(cell_titles(rows).values()) == titles
