"""What the notes say about differences, by the columns and rows that a table has."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.report.charts.figures import draw_figures
from orchestrator.report.documents.report import Report
from orchestrator.report.notes.differences import difference_notes
from orchestrator.report.study_report import StudyReport
from orchestrator.study.load import load_study
from tests.support.fabricated_studies import PLAIN, fabricate_study, report_of, write_study

pytestmark = pytest.mark.usefixtures("own_store")

PARTIAL = PLAIN + "  c: {set: {model: {flows: [detail]}}}\n"
GRID = """\
study: grid
compare_to: a
base:
  data: {dataset: DATASET, crop: [64, 64]}
  model: {backbone: dfnet1}
  training: {epochs: 3, precision: fp32}
grid: {model.channels: [8, 16]}
seeds: [0, 1, 2]
report: {published_setting: {model.channels: 8}}
variants:
  a: {set: {model: {flows: []}}, reference: {miou: 70, source: Table 9}}
  b: {set: {model: {flows: [detail]}}, reference: {miou: 71, source: Table 9}}
published:
  - {label: GFFNet, miou: 81.2, source: Table 3(a)}
"""


def footnotes(report: Report) -> str:
    return "\n".join(report.notes.footnotes)


@pytest.fixture(scope="module")
def grid(
    tmp_path_factory: pytest.TempPathFactory,
    small_streets: Path,
    make_storage: Callable[[Path], Path],
) -> Path:
    """Return the file of a finished study with a grid; its storage is next to it."""
    directory = tmp_path_factory.mktemp("grid")
    make_storage(directory)
    return fabricate_study(directory, small_streets, GRID)


def page(study_report: StudyReport, report: Report) -> str:
    text = str(study_report.documents(report)["report.html"]).partition("</head>")[2]
    return " ".join(text.replace("&nbsp;", " ").split())


def test_one_seed_of_one_row_says_nothing_about_the_other_rows(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(
        tmp_path, small_streets, PARTIAL + "seeds: [0, 1]\n", fates={"b, seed 1": "missing"}
    )
    study_report = report_of(path)
    report = study_report.read()
    (note,) = [note for note in report.notes.footnotes if note.startswith("One seed (b)")]
    assert note.endswith("so this difference does not show that the row differs.")
    text = page(study_report, report)
    assert "hollow point and thin bar, gray: not shown to differ" in text
    assert "Hollow point without a bar: one seed" in text


def test_row_compared_to_without_a_score_is_the_reason_for_no_differences(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(
        tmp_path,
        small_streets,
        PARTIAL + "seeds: [0, 1]\n",
        fates={"a, seed 0": "missing", "a, seed 1": "missing"},
    )
    report = report_of(path).read()
    warning = "No differences: a, which rows are compared to, has no score."
    assert warning in report.notes.warnings
    assert f"**{warning}**" in report.markdown()
    assert warning in report.latex()
    (caption,) = [line for line in report.latex().splitlines() if line.startswith(r"\caption")]
    assert "differences to a" not in caption


def test_seeds_that_rows_do_not_share_are_the_reason_for_no_difference(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(
        tmp_path,
        small_streets,
        PARTIAL + "seeds: [0, 1]\n",
        fates={"a, seed 0": "missing", "b, seed 1": "missing"},
    )
    warnings = report_of(path).read().notes.warnings
    assert "No difference for b: no seed has a score in both the row and a." in warnings


def test_table_of_means_over_the_grid_has_only_notes_on_its_columns(grid: Path) -> None:
    report = report_of(grid).read()
    by_row = [row.difference for row in report.rows if row.difference]
    (overall,) = [each.difference for each in report.overall]
    assert overall.detectable is not None
    sizes = {f"{each.detectable:.1f}" for each in by_row if each.detectable is not None}
    assert f"{overall.detectable:.1f}" not in sizes
    of_grid, of_means, of_rows, _ = report.latex().split(r"\end{table}")
    assert r"grid-overall}" in of_means
    size = f"Smallest mean difference over all columns that can be shown: {overall.detectable:.1f}"
    assert size in of_means
    assert "p is two-sided" in of_means
    for words in ("Smallest difference this", "one standard deviation", "ublished"):
        assert words not in of_means
        assert words in of_rows
    assert size not in of_rows
    assert "Table 3(a)" not in of_grid  # it has no line of that method
    assert "Table 9" in of_grid
    assert "Table 3(a)" in of_rows
    assert size in report.markdown()


def test_published_values_of_another_setting_are_named_and_not_drawn(grid: Path) -> None:
    study_report = report_of(grid)
    report = study_report.read()
    setting = "(for 8, another setting than that of a (16), b (16))"
    assert f"Published values: Table 3(a); Table 9 {setting}." in footnotes(report)
    figures = draw_figures(report.study, report.rows, lambda *_: [], {})
    diamonds = {
        figure.title: sum(line.get_marker() == "D" for line in figure.figure.axes[0].lines)
        for figure in figures
        if figure.kind == "differences"
    }
    assert diamonds == {"8": 1, "16": 0}
    text = page(study_report, report)
    assert 'aria-label="Differences between rows: 16"' in text


def test_notes_on_published_values_need_a_column_with_them(grid: Path, tmp_path: Path) -> None:
    text = grid.read_text().replace("report: {", "report: {columns: [miou, difference], ")
    path = tmp_path / "study.yaml"
    path.write_text(text.replace("grid: {model.channels: [8, 16]}\n", ""))
    report = report_of(grid).read()
    assert "The published difference is" in footnotes(report)
    columns = load_study(path)
    (table,) = (
        Report(columns, [row for row in report.rows if row.grid_cell == ("8",)])
        .latex()
        .split(r"\end{table}")[:1]
    )
    assert "Difference: mean over seeds" in table
    assert "Published values" not in table
    assert "published difference is" not in table


def test_folds_scored_on_the_same_few_images(tmp_path: Path, small_streets: Path) -> None:
    """The runs are those of folds; the study says that another split is scored."""
    path = fabricate_study(tmp_path, small_streets, PLAIN + "folds: 3\n")
    report = report_of(path).read()
    assert not any("Only" in note for note in report.notes.footnotes)
    text = PLAIN + "folds: 3\nprotocols: {final: {split: val}}\nreport: {protocol: final}\n"
    study = load_study(write_study(tmp_path, small_streets, text))
    notes = [note for note, *_ in difference_notes(study, report.rows)]
    assert any("All folds are scored on the same images" in note for note in notes)
    groups = "Only 2 groups of images (aachen, bonn): the intervals are for these groups"
    assert any(note.startswith(groups) for note in notes)
    assert any(note.startswith("Only 10 images") for note in notes)
