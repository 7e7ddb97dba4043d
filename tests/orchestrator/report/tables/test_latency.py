"""Latency in the report, with fabricated measurements in a real tracking store."""

import csv
import io
import statistics
import tempfile
from pathlib import Path

import pytest

from orchestrator.study.evaluation_options import LATENCY, LatencyConfig
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from tests.support.fabricated_studies import PLAIN, fabricate_study, report_of

pytestmark = pytest.mark.usefixtures("own_store")
TIMED = f"{PLAIN}seeds: [0, 1, 2]\nlatency: {{size: [480, 640]}}\n"
TAG = LatencyConfig((480, 640)).tag
# By trial: median milliseconds.
TIMES = {
    **{"a, seed 0": 12.31, "a, seed 1": 12.42, "a, seed 2": 12.29},
    **{"b, seed 0": 8.07, "b, seed 1": 8.01},
}


def record(
    store: TrackingStore,
    run_id: str,
    median: float,
    tag: str,
    device: str,
    spread: tuple[float, float] = (0.95, 1.2),
) -> None:
    metrics = {
        "latency_ms": median,
        "latency_ms_p5": spread[0] * median,
        "latency_ms_p95": spread[1] * median,
        "inference_memory_gib": 0.4567,
    }
    tags = {"timed": tag, "device": device, "code": "code"}
    with tempfile.TemporaryDirectory() as files:
        log_evaluation(store, run_id, LATENCY, metrics, tags, Path(files))


def test_latency_is_a_column_with_its_spread(tmp_path: Path, small_streets: Path) -> None:
    path = fabricate_study(tmp_path, small_streets, TIMED)
    store = TrackingStore(tracking_uri(tmp_path / "storage"), tmp_path / "artifacts")
    runs = {
        result.trial.name: result.run.run_id
        for row in report_of(path).read().rows
        for result in row.results
        if result.run is not None
    }
    for name, median in TIMES.items():
        record(store, runs[name], median, TAG, "EPYC, 1 core")
    # Of another size, which is not shown.
    record(store, runs["b, seed 2"], 99.0, LatencyConfig((64, 64)).tag, "EPYC, 1 core")
    report = report_of(path).read()
    ((_, table),) = report.tables
    (column,) = [each for each in table.columns if each.key == "latency_ms"]
    assert (column.name, column.values) == (
        "latency ms at 480x640",
        ("12.3 ± 0.1", "8.04 ± 0.04"),
    )
    assert [e.values for e in table.columns if e.key == "inference_memory_gib"] == [
        ("0.457 ± 0.000", "0.457 ± 0.000")
    ]
    text = " ".join(report.notes.on(table.keys).footnotes)
    assert "a forward pass on one image, in the precision of the training, on EPYC, 1 core;" in text
    assert "Nine of ten passes are within -5 % and +20 % of their median." in text
    lines = list(csv.DictReader(io.StringIO(report.csv())))
    assert float(lines[0]["latency_ms"]) == pytest.approx(statistics.fmean([12.31, 12.42, 12.29]))
    assert float(lines[0]["latency_ms_sd"]) == pytest.approx(
        statistics.stdev([12.31, 12.42, 12.29])
    )
    assert lines[0]["latency_device"] == "EPYC, 1 core"
    assert not any("different devices" in line for line in report.notes.warnings)

    record(store, runs["b, seed 2"], 3.0, TAG, "NVIDIA H200")
    warnings = report_of(path).read().notes.warnings
    assert any("on different devices, which cannot be compared" in line for line in warnings)


def test_a_study_without_latency_has_no_such_columns(tmp_path: Path, small_streets: Path) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    report = report_of(path).read()
    assert "latency" not in report.markdown() + report.csv()


def test_close_passes_have_a_decimal(tmp_path: Path, small_streets: Path) -> None:
    path = fabricate_study(tmp_path, small_streets, f"{PLAIN}latency: {{size: [480, 640]}}\n")
    store = TrackingStore(tracking_uri(tmp_path / "storage"), tmp_path / "artifacts")
    run = report_of(path).read().rows[0].results[0].run
    assert run is not None
    record(store, run.run_id, 10.0, TAG, "EPYC", (0.9996, 1.003))
    text = " ".join(report_of(path).read().notes.footnotes)
    assert "Nine of ten passes are within 0.0 % and +0.3 % of their median." in text
