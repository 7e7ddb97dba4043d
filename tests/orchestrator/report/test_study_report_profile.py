"""Reports of profiles, which need no trainings."""

import csv
import io
from pathlib import Path

import pytest

from orchestrator.report.study_report import StudyReport
from orchestrator.study.load import load_study
from orchestrator.study.profile_costs import profile_costs
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.mark.slow
def test_profile_report_compares_with_published_values(tmp_path: Path) -> None:
    study = Path(__file__).parents[3] / "studies" / "table-2.yaml"
    study = load_study(study)
    store = TrackingStore(tracking_uri(tmp_path / "storage"), None)
    report = StudyReport(study, store, costs=profile_costs(study)).read()
    assert report.complete
    lines = list(csv.DictReader(io.StringIO(report.csv())))
    compared = [line for line in lines if line["published_parameters_m"]]
    assert len(compared) >= 4
    for line in compared:
        published = float(line["published_parameters_m"])
        assert float(line["parameters_m"]) == pytest.approx(published, rel=0.005)
    assert "| difference |" in report.markdown()
    assert "mIoU" not in report.markdown()


def test_profile_of_small_networks(tmp_path: Path) -> None:
    path = tmp_path / "costs.yaml"
    path.write_text("""\
study: costs
kind: profile
profile: {classes: 3, size: [32, 32]}
grid: {model.channels: [8, 16]}
base: {model: {backbone: dfnet1}}
variants:
  a: {reference: {parameters_m: 8.1, gflops: 0.02}}
published:
  - {label: other, gflops: 0.034, when: {model.channels: [8, 16]}}
""")
    study = load_study(path)
    store = TrackingStore(tracking_uri(tmp_path / "storage"), None)
    report = StudyReport(study, store, costs=profile_costs(study)).read()
    (_, table), *_ = report.tables
    first = [column.name for column in table.columns].index("GFLOPs")
    ours, theirs, differences = table.columns[first : first + 3]
    costs = [row.gflops for row in report.rows]
    expected = [f"{100 * (cost - 0.02) / 0.02:+.2f} %" for cost in costs if cost is not None]
    assert differences.values == (*expected, "-")
    assert all(0.005 < float(text) < 0.1 for text in ours.values[:2])
    assert theirs.values == ("0.02", "0.02", "0.034")
    lines = report.records()
    assert [line["kind"] for line in lines] == ["profile", "profile", "published"]
    assert not any(line[name] for line in lines for name in ("split", "protocol", "unfinished"))
    assert lines[2]["model.channels"] == "8, 16"
