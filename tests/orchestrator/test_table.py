"""The table's figures, from records that are made up but look like the ledger's."""

import csv
import io
import statistics
from pathlib import Path

import pytest

from orchestrator import table
from orchestrator.cells import Cell, resolve_cells
from orchestrator.ledger import Record
from orchestrator.study import Plan
from orchestrator.study_file import load_study

STUDY = """\
study: table test
compare_to: strong
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {precision: fp32}
seeds: [0, 1, 2]
grid: {model.channels: [8, 16]}
variants:
  strong: {set: {model: {flows: []}}, reference: {miou: 77.3, source: Table 1(a)}}
  full: {label: FENet, reference: {miou: 79.6, source: Table 1(a)}}
  odd: {set: {model: {flows: [detail]}}}
"""


@pytest.fixture
def plan(tmp_path: Path, small_streets: Path) -> Plan:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(small_streets)))
    return load_study(path)


@pytest.fixture
def cells(plan: Plan, tmp_path: Path) -> list[Cell]:
    return resolve_cells(plan.trials, "cpu", tmp_path)


def figure(cell: Cell) -> float:
    """An mIoU that differs for every trial."""
    trial = cell.trial
    variant = {"strong": 0.40, "full": 0.45, "odd": 0.35}[trial.variant]
    return variant + 0.01 * trial.experiment.seed**2 + 0.001 * trial.axes["model.channels"]


def record(cell: Cell, code: str | None = None) -> Record:
    metrics = {"val/miou": figure(cell), "val/best_miou": figure(cell) + 0.02, "epoch": 300.0}
    return Record("id", "study", cell.identity, "FINISHED", code or cell.code, 300, metrics)


def parsed(plan: Plan, rows: list[table.Row]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.as_csv(plan, rows))))


def test_mean_deviation_and_paired_difference(plan: Plan, cells: list[Cell]) -> None:
    rows = table.build_rows(plan, cells, {cell.trial.name: record(cell) for cell in cells})
    assert [(row.label, row.axes["model.channels"]) for row in rows] == [
        (label, channels) for label in ("strong", "FENet", "odd") for channels in (8, 16)
    ]
    lines = parsed(plan, rows)
    for line, row in zip(lines, rows, strict=True):
        group = [c for c in cells if c.trial.label == row.label and c.trial.axes == row.axes]
        values = [100 * figure(cell) for cell in group]
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        assert line["mIoU %"] == f"{mean:.1f} ± {deviation:.1f} (n=3)"
        assert line["best %"] == f"{mean + 2:.1f} ± {deviation:.1f} (n=3)"
    assert [line["vs strong"] for line in lines] == ["-", "-", "+5.0", "+5.0", "-5.0", "-5.0"]
    assert [line["published diff."] for line in lines] == ["-", "-", "+2.3", "+2.3", "-", "-"]
    assert {line["GFLOPs at 48x32"] for line in lines}


def test_missing_seeds_are_told_and_differences_use_shared_seeds(
    plan: Plan, cells: list[Cell]
) -> None:
    records = {
        cell.trial.name: record(cell)
        for cell in cells
        if (cell.trial.variant, cell.trial.experiment.seed) not in {("strong", 2), ("full", 0)}
        and cell.trial.variant != "odd"
    }
    lines = parsed(plan, table.build_rows(plan, cells, records))
    assert lines[0]["mIoU %"].endswith("(n=2) (1 missing)")
    assert lines[2]["vs strong"] == "+5.0"  # seed 1 alone, the same on both sides
    assert lines[4]["mIoU %"] == "-"


def test_another_code_version_is_marked(plan: Plan, cells: list[Cell]) -> None:
    records = {cell.trial.name: record(cell) for cell in cells}
    records[cells[0].trial.name] = record(cells[0], code="older")
    rows = table.build_rows(plan, cells, records)
    assert [line["variant"] for line in parsed(plan, rows)][:2] == ["strong *", "strong"]
    assert "another version of the code" in table.as_markdown(plan, rows)


def test_what_was_not_published_has_no_column(
    plan: Plan, cells: list[Cell], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.yaml"
    text = plan.text.replace("reference: {miou: 77.3, source: Table 1(a)}", "")
    plain.write_text(text.replace("reference: {miou: 79.6, source: Table 1(a)}", ""))
    other = load_study(plain)
    unpublished = resolve_cells(other.trials, "cpu", tmp_path)
    names = table.columns(other, table.build_rows(other, unpublished, {}))
    assert not [name for name in names if "published" in name]


def test_markdown_has_a_line_a_row(plan: Plan, cells: list[Cell]) -> None:
    rows = table.build_rows(plan, cells, {cell.trial.name: record(cell) for cell in cells})
    lines = [line for line in table.as_markdown(plan, rows).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1
