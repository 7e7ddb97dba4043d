"""Columns of other metrics, classes and groups of classes."""

import csv
import io
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.report.__main__ import main
from orchestrator.study.load import load_study
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from tests.support.fabricated_studies import (
    PLAIN,
    fabricate,
    fabricate_study,
    report_of,
    write_study,
)
from tests.support.own_metric import WRONG

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.mark.slow
def test_report_columns_select_metrics_of_the_runs(tmp_path: Path, small_streets: Path) -> None:
    columns = "report: {columns: [pixel_accuracy, miou, iou/pole, memory_gib, iou/polle]}\n"
    path = fabricate_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1]\n" + columns)
    report = report_of(path).read()
    header, _, first, _ = report.markdown().splitlines()[2:6]
    names = ["variant", "pixel accuracy %", "mIoU %", "IoU pole %", "memory\\_gib"]
    assert [cell.strip() for cell in header.strip("|").split("|")] == names
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    runs = [result.run for result in report.rows[0].results]
    for cell, metric in ((cells[1], "val/pixel_accuracy"), (cells[3], "val/iou/pole")):
        mean = statistics.fmean(100 * run.metrics[metric] for run in runs if run is not None)
        assert cell.split(" ± ")[0] == f"{mean:.1f}"
    assert cells[4:] == ["9.7"]
    (warning,) = [line for line in report.notes.warnings if "polle" in line]
    assert "left out" in warning


def test_other_metrics_have_differences_with_intervals(tmp_path: Path, small_streets: Path) -> None:
    text = PLAIN.replace(
        "  training:", "  evaluation: {metrics: [boundary_iou, calibration_error]}\n  training:"
    )
    text += """seeds: [0, 1, 2]
report: {columns: [miou, difference, dice, difference/dice, boundary_iou, difference/boundary_iou,
                   calibration_error, difference/calibration_error]}
"""
    path = write_study(tmp_path, small_streets, text)
    trials = fabricate(load_study(path), tmp_path / "storage")
    report = report_of(path).read()
    store = TrackingStore(tracking_uri(tmp_path / "storage"), None)
    (line,) = [line for line in csv.DictReader(io.StringIO(report.csv())) if line["variant"] == "b"]
    by_variant: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
    for row in report.rows:
        for result in row.results:
            assert result.run is not None
            by_variant[row.variant].append(store.trial_run(result.run.run_id).metrics)
    assert len(by_variant["b"]) == len(trials) // 2
    for key in ("dice", "boundary_iou", "calibration_error"):
        values = [100 * metrics[f"val/{key}"] for metrics in by_variant["b"]]
        assert float(line[f"{key}_mean"]) == pytest.approx(statistics.fmean(values))
        low, mean, high = (float(line[f"difference/{key}{end}"]) for end in ("_low", "", "_high"))
        others = [100 * metrics[f"val/{key}"] for metrics in by_variant["a"]]
        assert mean == pytest.approx(statistics.fmean(values) - statistics.fmean(others))
        assert low < mean < high
    header = report.markdown().split("| variant |")[1].splitlines()[0]
    assert "difference in Dice [95\u00a0% CI]" in header
    assert "boundary IoU % |" in header
    assert "Lower is better: calibration error." in report.markdown()
    assert "so they have no p" in report.markdown()


def test_groups_of_classes_are_columns(tmp_path: Path, small_streets: Path) -> None:
    options = """
report:
  class_groups: {thin: [pole, fence]}
  columns: [miou, iou/thin, difference/iou/thin, iou/pole, iou/fence, difference/iou/pole]
"""
    path = fabricate_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1]" + options)
    for line in csv.DictReader(io.StringIO(report_of(path).read().csv())):
        mean = (float(line["iou/pole_mean"]) + float(line["iou/fence_mean"])) / 2
        assert float(line["iou/thin_mean"]) == pytest.approx(mean)
    low, difference, high = (float(line[f"difference/iou/thin{e}"]) for e in ("_low", "", "_high"))
    assert low < difference < high
    assert line["difference/iou/pole_low"]


def test_names_of_classes_may_have_spaces(tmp_path: Path, small_streets: Path) -> None:
    """MLflow records `traffic-sign`."""
    columns = "report: {columns: [miou, iou/traffic sign, difference/iou/traffic sign]}\n"
    path = fabricate_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1]\n" + columns)
    lines = list(csv.DictReader(io.StringIO(report_of(path).read().csv())))
    first, second = (float(line["iou/traffic sign_mean"]) for line in lines)
    difference = float(lines[1]["difference/iou/traffic sign"])
    assert difference == pytest.approx(second - first)


@pytest.mark.parametrize("more", ["class_groups: {thin: [pole, fense]}, ", ""])
def test_class_that_was_not_scored_is_one_error(
    tmp_path: Path, small_streets: Path, more: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "iou/thin" if more else "difference/iou/fense"
    text = f"{PLAIN}report: {{{more}columns: [miou, {name}]}}\n"
    path = fabricate_study(tmp_path, small_streets, text)
    assert main([str(path), "--storage", str(tmp_path / "storage")]) == 2
    output = capsys.readouterr().out
    assert "the scored images have no class 'fense'; did you mean `fence`?" in output


def test_interval_needs_the_metric_that_was_measured(
    tmp_path: Path,
    small_streets: Path,
    user_module: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user has changed what the metric sums up."""
    name = "own_metric_that_changes"
    user_module(name, WRONG)
    text = PLAIN.replace("  training:", f"  evaluation: {{metrics: ['{name}:Wrong']}}\n  training:")
    text += "seeds: [0, 1]\nreport: {columns: [miou, Wrong, difference/Wrong]}\n"
    path = fabricate_study(tmp_path, small_streets, text)
    before = list(csv.DictReader(io.StringIO(report_of(path).read().csv())))[1]
    assert before["difference/Wrong_low"]
    monkeypatch.delitem(sys.modules, name)
    changed = WRONG.replace("stack([", "stack([valid.sum().double(), ").replace("1]", "2]")
    user_module(name, changed.replace("0]", "1]"))
    after = list(csv.DictReader(io.StringIO(report_of(path).read().csv())))[1]
    assert after["Wrong_mean"] == before["Wrong_mean"]
    assert not after["difference/Wrong_low"]
