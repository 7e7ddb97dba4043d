"""Scores under a study's additional protocols: their runs, and that they never mix."""

import sqlite3
from pathlib import Path

import pytest

from orchestrator.report.rows.results import Result
from orchestrator.report.study_report import StudyReport
from orchestrator.study.load import load_study
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from pipelines.evaluation.config import InferenceConfig
from tests.support.fabricated_studies import (
    PLAIN,
    evaluate_again,
    fabricate,
    fabricate_study,
    report_of,
    write_study,
)

pytestmark = pytest.mark.usefixtures("own_store")

FLIPPED = PLAIN + "protocols: {flipped: {flip: true}}\nreport: {protocol: flipped}\n"
FLIP = InferenceConfig(flip=True)


@pytest.fixture
def trials(tmp_path: Path, small_streets: Path) -> list[ResolvedTrial]:
    path = write_study(tmp_path, small_streets, FLIPPED)
    return fabricate(load_study(path), tmp_path / "storage")


@pytest.fixture
def study_report(tmp_path: Path, trials: list[ResolvedTrial]) -> StudyReport:
    return report_of(tmp_path / "study.yaml")


def run_ids(report: StudyReport) -> list[str]:
    runs = [row.results[0].run for row in report.read().rows]
    return [run.run_id for run in runs if run is not None]


def score_again(
    tmp_path: Path, report: StudyReport, trials: list[ResolvedTrial], **options: float
) -> list[float]:
    return [
        evaluate_again(tmp_path / "storage", run_id, trial, "flipped", FLIP, **options)
        for run_id, trial in zip(run_ids(report), trials, strict=True)
    ]


def result_of_row(report: StudyReport, row: int = 0) -> Result:
    return report.read().rows[row].results[0]


def test_report_uses_the_protocol_chosen_by_the_study(
    tmp_path: Path, trials: list[ResolvedTrial], study_report: StudyReport
) -> None:
    assert study_report.read().notes.unfinished == (
        "not scored: a, epoch 3 of 3",
        "not scored: b, epoch 3 of 3",
    )
    scores = score_again(tmp_path, study_report, trials)
    report = study_report.read()
    assert [row.miou[0] for row in report.rows] == pytest.approx(scores)
    assert "protocol flipped (whole_flip)" in " ".join(report.notes.footnotes)
    assert not report.notes.warnings


def test_trials_without_validation_are_finished(tmp_path: Path, small_streets: Path) -> None:
    """The test server's score is entered by hand; the report still says what was trained."""
    text = PLAIN.replace("crop: [64, 64]", "crop: [64, 64], validation_split: null")
    text = text.replace("a: {}", "a: {entered: {miou: 70.5, source: server}}")
    text = text.replace("compare_to: a\n", "")
    path = fabricate_study(
        tmp_path,
        small_streets,
        text,
        fates={"b": "FAILED"},
        code=lambda trial: "older",
    )
    # Fabricated trainings are validated.
    with sqlite3.connect(tmp_path / "storage" / "mlflow.db") as store:
        for table in ("metrics", "latest_metrics"):
            store.execute(f"DELETE FROM {table} WHERE key LIKE 'val/%'")
    report = report_of(path).read()
    assert report.rows[0].miou == {}
    assert report.rows[0].stale
    first, second = report.records()
    assert (first["unfinished"], second["unfinished"]) == ("", "failed")
    assert (first["code"], first["stale"]) == ("older", 1)
    assert all(first[name] for name in ("data", "runs", "hours", "images_per_second"))
    assert not any(second[name] for name in ("data", "runs", "hours", "images_per_second"))
    assert any(line.startswith("* Trained with another") for line in report.notes.warnings)


def test_counts_are_read_when_they_become_available(
    tmp_path: Path,
    trials: list[ResolvedTrial],
    study_report: StudyReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a study is being scored, the metrics are logged before the counts."""
    download = TrackingStore.download_file
    missing = lambda self, run_id, path, folder: Path("/nowhere")  # noqa: E731
    monkeypatch.setattr(TrackingStore, "download_file", missing)
    scores = score_again(tmp_path, study_report, trials)
    first, second = study_report.read().rows
    assert [first.miou[0], second.miou[0]] == pytest.approx(scores)
    assert second.difference is not None
    assert second.difference.image_interval is None
    monkeypatch.setattr(TrackingStore, "download_file", download)
    difference = study_report.read().rows[1].difference
    assert difference is not None
    assert difference.image_interval is not None


def test_new_score_is_not_paired_with_old_counts(
    tmp_path: Path, trials: list[ResolvedTrial], study_report: StudyReport
) -> None:
    score_again(tmp_path, study_report, trials)
    before = result_of_row(study_report).counts
    assert before is not None
    # A second evaluation, read after its metrics but before its counts are written.
    store = TrackingStore(tracking_uri(tmp_path / "storage"), None)
    store.log_metrics(run_ids(study_report)[0], {"eval/flipped/miou": 0.5}, step=0)
    assert result_of_row(study_report).miou == 50
    assert result_of_row(study_report).counts is None
    (score, _) = score_again(tmp_path, study_report, trials, ability=0.5)
    after = result_of_row(study_report)
    assert after.miou == pytest.approx(score)
    assert after.counts is not None
    assert 100 * after.counts.resampled.mean() == pytest.approx(score, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        (InferenceConfig(flip=True, scales=(0.5, 1.0)), "val", "scales [0.5, 1.0], not [1.0]"),
        (FLIP, "train", "split train, not val"),
    ],
)
def test_score_under_the_same_name_with_other_settings_is_ignored(
    tmp_path: Path,
    trials: list[ResolvedTrial],
    study_report: StudyReport,
    config: InferenceConfig,
    split: str,
    message: str,
) -> None:
    score_again(tmp_path, study_report, trials)
    assert study_report.read().complete
    run_id = run_ids(study_report)[0]
    evaluate_again(tmp_path / "storage", run_id, trials[0], "flipped", config, split=split)
    report = study_report.read()
    assert report.rows[0].results[0].state == "not scored"
    assert report.rows[0].miou == {}
    assert report.rows[1].difference is None
    (line,) = report.notes.unfinished
    assert line.startswith("not scored: a")
    assert message in line


def test_edited_protocol_is_not_scored(
    tmp_path: Path, trials: list[ResolvedTrial], study_report: StudyReport
) -> None:
    score_again(tmp_path, study_report, trials)
    path = tmp_path / "study.yaml"
    path.write_text(path.read_text().replace("flip: true", "flip: true, scales: [1, 1.5]"))
    report = report_of(path).read()
    assert {result.state for row in report.rows for result in row.results} == {"not scored"}


def test_interrupted_evaluation_is_ignored(
    tmp_path: Path,
    trials: list[ResolvedTrial],
    study_report: StudyReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tags that validate the metrics of an evaluation are written last."""
    score_again(tmp_path, study_report, trials)
    client = TrackingStore(tracking_uri(tmp_path / "storage"), None).client

    def fail(*_: object, **__: object) -> None:
        raise OSError("the bucket is away")

    monkeypatch.setattr(type(client), "log_artifacts", fail)
    with pytest.raises(OSError, match="away"):
        score_again(tmp_path, study_report, trials, ability=0.5)
    assert result_of_row(study_report).state == "not scored"
    assert result_of_row(study_report, 1).state == "finished"


def test_rows_scored_on_other_images_have_no_difference(
    tmp_path: Path, small_streets: Path
) -> None:
    text = PLAIN + "  other: {set: {data: {validation_split: train}}}\n"
    path = fabricate_study(tmp_path, small_streets, text)
    report = report_of(path).read()
    rows = {row.variant: row for row in report.rows}
    assert rows["b"].difference is not None
    assert rows["other"].difference is None
    warnings = "\n".join(report.notes.warnings)
    assert (
        "‡ other cannot be compared with a (scored on different splits); no difference" in warnings
    )
    assert "Rows are scored on different splits (val: a, b; train: other)." in warnings
