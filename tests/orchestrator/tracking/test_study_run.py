"""`StudyRun` on a real MLflow store in SQLite."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.planning.reconcile import Decision
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking import runs
from orchestrator.tracking import store as store_module
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.queries import read_snapshot
from orchestrator.tracking.store import TrackingError, TrackingStore, now_ms
from orchestrator.tracking.study_run import StudyRun
from pipelines.training.config import OptimizerConfig
from tests.support.tracked_trials import decision_on, finish


def move_clock(monkeypatch: pytest.MonkeyPatch, **ahead: float) -> None:
    """Set the clock of the tracking package to the current time plus `ahead`."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls.fromtimestamp((datetime.now(tz) + timedelta(**ahead)).timestamp(), tz)

    for module in (runs, store_module):
        monkeypatch.setattr(module, "datetime", Clock)


def test_trial_from_start_to_finish(study_run: StudyRun, trial: ResolvedTrial, uri: str) -> None:
    # MLflow rejects parameters named after patterns.
    optimizer = OptimizerConfig("adamw", {"eps": 1e-6}, rate_factors={"backbone.*": 0.5})
    training = replace(trial.experiment.training, optimizer=optimizer)
    trial = replace(trial, experiment=replace(trial.experiment, training=training))
    run_id = study_run.begin_trial(trial, "abc123", None)
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "SCHEDULED"
    study_run.start_trial(run_id, trial.code)
    assert client.get_run(run_id).info.status == "RUNNING"
    for epoch in (1, 2):
        study_run.log_epoch(
            run_id, epoch, {"val/miou": 0.1 * epoch, "val/iou/traffic sign, old": 0.5}
        )
    study_run.end_trial(run_id, "FINISHED")

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == study_run.parent_id
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert run.data.tags["orchestrator.identity"] == trial.identity
    assert run.data.tags["orchestrator.data"] == trial.dataset.manifest.fingerprint
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["streets"]
    assert run.data.params["model.backbone"] == "dfnet1"
    assert run.data.params["training.loss.threshold"] == "0.7"
    assert run.data.params["training.optimizer.arguments.eps"] == "1e-06"
    assert run.data.params["training.optimizer.rate_factors"] == "{'backbone.*': 0.5}"
    assert run.data.metrics["model/gflops"] == pytest.approx(trial.cost.gflops)
    assert run.data.metrics["val/iou/traffic-sign-old"] == 0.5
    history = client.get_metric_history(run_id, "val/miou")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2)]

    decision = decision_on(study_run, trial)
    assert decision.state == "finished"
    record = decision.run
    assert record is not None
    assert (record.run_id, record.epoch, record.status) == (run_id, 2, "FINISHED")


def test_run_whose_description_was_interrupted_is_described_again(
    study_run: StudyRun, trial: ResolvedTrial, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study_run.store, "log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            study_run.begin_trial(trial, None, None)
    (run,) = read_snapshot(study_run.store).trials
    assert run.dataset == ""
    assert study_run.begin_trial(trial, None, run) == run.run_id
    params = MlflowClient(uri).get_run(run.run_id).data.params
    assert params["model.backbone"] == "dfnet1"


def test_score_that_the_last_evaluation_lacks_is_left_out(
    study_run: StudyRun, trial: ResolvedTrial, tmp_path: Path
) -> None:
    """MLflow keeps the last value of each metric: here, of a class that does not occur any more."""
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    study_run.log_epoch(run_id, 1, {"train/loss": 1.0, "val/miou": 0.1, "val/iou/rare": 0.0})
    study_run.log_epoch(run_id, 2, {"train/loss": 0.9, "val/miou": 0.2, "val/iou/road": 0.3})
    study_run.log_epoch(run_id, 3, {"train/loss": 0.8})
    store = study_run.store
    files = tmp_path / "files"
    files.mkdir()
    for scores in ({"miou": 0.4, "iou/rare": 0.0}, {"miou": 0.5, "iou/road": 0.6}):
        log_evaluation(store, run_id, "whole", scores, {}, files)
    store.log_metrics(run_id, {"eval/latency/latency_ms": 3.0}, 7)
    metrics = store.trial_run(run_id).metrics
    assert {k: v for k, v in metrics.items() if k.startswith(("train/", "val/", "eval/"))} == {
        "train/loss": 0.8,
        "val/miou": 0.2,
        "val/iou/road": 0.3,
        "eval/whole/miou": 0.5,
        "eval/whole/iou/road": 0.6,
        "eval/latency/latency_ms": 3.0,
    }


def test_mlflow_view_sorts_trials_by_score(study_run: StudyRun, uri: str) -> None:
    experiment = MlflowClient(uri).get_experiment(study_run.experiment_id)
    view = json.loads(experiment.tags["mlflow.sharedViewState.study"])
    # Sorted by a metric, because MLflow otherwise collapses the trials under the study's run.
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val/miou`", False)
    assert view["columnOrder"][:3] == [
        "attributes.`Run Name`",
        "metrics.`val/miou`",
        "metrics.`val/best_miou`",
    ]
    assert set(view["selectedColumns"]) < set(view["columnOrder"])
    (section,) = view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {section["uuid"]}
    assert view["compareRunCharts"][0]["metricKey"] == "val/miou"


def test_unfinished_trial_is_reopened(study_run: StudyRun, trial: ResolvedTrial) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    study_run.log_epoch(run_id, 1, {"train/loss": 2.0})
    study_run.end_trial(run_id, "FAILED", "out of luck")
    decision = decision_on(study_run, trial)
    record = decision.run
    assert record is not None
    assert (decision.state, record.reason) == ("failed", "out of luck")
    assert study_run.begin_trial(trial, None, record) == run_id
    assert study_run.logged_epochs(record) == {1}
    assert study_run.store.trial_run(run_id).status == "SCHEDULED"


def test_duration_is_the_training_time(
    study_run: StudyRun, trial: ResolvedTrial, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial waits for an hour, trains, is interrupted for a day, and resumes."""
    client = MlflowClient(uri)

    def seconds_of(run_id: str) -> float:
        info = client.get_run(run_id).info
        return float(info.end_time - info.start_time) / 1000

    began = datetime.now(UTC)
    run_id = study_run.begin_trial(trial, None, None)
    move_clock(monkeypatch, hours=1)
    study_run.start_trial(run_id, trial.code)
    study_run.log_epoch(run_id, 1, {"trial/seconds": 60.0})
    study_run.end_trial(run_id, "KILLED", "stopped")
    assert seconds_of(run_id) == 60
    assert study_run.store.trial_run(run_id).hours == 60 / 3600
    tags = client.get_run(run_id).data.tags
    for name in ("orchestrator.started", "orchestrator.ended"):
        assert abs(datetime.fromisoformat(tags[name]) - began - timedelta(hours=1)).seconds < 60

    # Time within the next epoch is neither an epoch nor the score of one.
    study_run.log_time(run_id, 1, {"trial/seconds": 75.0}, now_ms())
    timed = study_run.store.trial_run(run_id)
    assert (timed.metrics["trial/seconds"], timed.epoch) == (75.0, 1)
    assert study_run.logged_epochs(timed) == {1}

    record = decision_on(study_run, trial).run
    study_run.begin_trial(trial, None, record)
    assert (
        not {"orchestrator.started", "orchestrator.ended"} & client.get_run(run_id).data.tags.keys()
    )
    move_clock(monkeypatch, hours=25)
    study_run.start_trial(run_id, trial.code)
    study_run.log_epoch(run_id, 2, {"trial/seconds": 100.0})
    study_run.end_trial(run_id, "FINISHED")
    assert seconds_of(run_id) == 100

    # Without an epoch, it has trained since its processes started.
    other = study_run.begin_trial(trial, None, None)
    study_run.start_trial(other, trial.code)
    move_clock(monkeypatch, hours=25, seconds=30)
    study_run.end_trial(other, "FAILED", "no good")
    assert 29 <= seconds_of(other) < 60
    waiting = study_run.begin_trial(trial, None, None)
    move_clock(monkeypatch, hours=50)
    study_run.end_trial(waiting, "KILLED", "stopped")
    assert seconds_of(waiting) == 0
    notes = [
        client.get_run(run).data.tags.get("mlflow.note.content", "")
        for run in (run_id, other, waiting)
    ]
    assert ["**Failed**: no good" in note for note in notes] == [False, True, False]
    assert ["**Not started**: stopped" in note for note in notes] == [False, False, True]


def test_no_tag_is_empty(study_run: StudyRun, trial: ResolvedTrial, uri: str) -> None:
    client = MlflowClient(uri)

    def tags() -> dict[str, str]:
        values: dict[str, str] = client.get_run(run_id).data.tags
        assert all(values.values())
        return values

    run_id = study_run.begin_trial(trial, None, None)
    assert tags()["orchestrator.claim"] == "requested"
    study_run.start_trial(run_id, trial.code)
    study_run.end_early(run_id)
    assert tags()["orchestrator.stopped"] == "early"
    assert "by its rank" in tags()["orchestrator.reason"]
    assert "orchestrator.claim" not in tags()
    study_run.begin_trial(trial, None, study_run.store.trial_run(run_id))
    assert not {"orchestrator.stopped", "orchestrator.reason"} & tags().keys()
    study_run.start_trial(run_id, trial.code)
    study_run.end_trial(run_id, "FINISHED")
    assert not {"orchestrator.claim", "orchestrator.reason"} & tags().keys()
    assert all(client.get_run(study_run.parent_id).data.tags.values())
    record = study_run.store.trial_run(run_id)
    assert (record.reason, record.stopped_early, record.claimed) == ("", False, False)


def test_trial_resumed_with_other_sources_has_both_code_versions(
    study_run: StudyRun, trial: ResolvedTrial
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    for code in ("first", "first", "second"):
        study_run.start_trial(run_id, code)
    study_run.end_trial(run_id, "FINISHED")
    assert study_run.store.trial_run(run_id).code == "first+second"
    assert decision_on(study_run, trial).state == "stale"


def test_deleted_run_is_missing(study_run: StudyRun, trial: ResolvedTrial, uri: str) -> None:
    run_id = finish(study_run, trial)
    MlflowClient(uri).delete_run(run_id)
    assert decision_on(study_run, trial) == Decision("missing", "train", None)


def test_metrics_are_those_of_the_last_checkpoint(
    study_run: StudyRun, trial: ResolvedTrial
) -> None:
    """An epoch was trained twice, the second time with another result."""
    run_id = study_run.begin_trial(trial, None, None)
    study_run.log_epoch(run_id, 1, {"train/loss": 1.0, "val/miou": 0.5, "val/iou/bus & tram": 0.1})
    checkpoint_metrics = {"epoch": 1, "train/loss": 1.0, "val/miou": 0.5, "val/iou/bus & tram": 0.1}
    history = partial(study_run.store.client.get_metric_history, run_id, "val/miou")
    study_run.confirm_epoch(
        run_id, {**checkpoint_metrics, "seconds": 7.0, "val/boundary_f": float("nan")}
    )
    assert [entry.value for entry in history()] == [0.5]
    study_run.confirm_epoch(run_id, {**checkpoint_metrics, "val/miou": 0.4})
    assert [(entry.step, entry.value) for entry in history()] == [(1, 0.5), (1, 0.4)]
    assert study_run.store.trial_run(run_id).metrics["val/miou"] == 0.4


def test_non_finite_values_are_not_logged(study_run: StudyRun, trial: ResolvedTrial) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    study_run.log_epoch(run_id, 1, {"train/loss": float("nan"), "val/miou": 0.5})
    metrics = study_run.store.trial_run(run_id).metrics
    assert "train/loss" not in metrics
    assert metrics["val/miou"] == 0.5


def test_close_ends_all_running_runs(
    study_run: StudyRun, trial: ResolvedTrial, uri: str, study: Study
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    study_run.close("KILLED")
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert "rerun the command" in run.data.tags["mlflow.note.content"]
    assert client.get_run(study_run.parent_id).info.status == "KILLED"
    names = {artifact.path for artifact in client.list_artifacts(study_run.parent_id)}
    assert names == {"study.yaml", "study.resolved.yaml"}


def test_runs_of_a_dead_process_are_closed_and_the_parent_is_reused(
    study_run: StudyRun, trial: ResolvedTrial, uri: str, study: Study, tmp_path: Path
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    MlflowClient(uri).set_tag(study_run.parent_id, "orchestrator.reason", "its process ended")
    # This process owns the study and does not wait for itself.
    reopened = StudyRun.open(study_run.store, study)
    assert reopened.parent_id == study_run.parent_id
    assert "orchestrator.reason" not in MlflowClient(uri).get_run(reopened.parent_id).data.tags
    assert reopened.store.trial_run(run_id).status == "KILLED"
    assert decision_on(reopened, trial).state == "interrupted"
    reopened.close("FINISHED")


def test_experiment_of_somebody_else_is_refused_and_not_changed(
    store: TrackingStore, study: Study
) -> None:
    client = store.client
    experiment_id = client.create_experiment("tracking test", tags={"mlflow.note.content": "mine"})
    client.create_run(experiment_id)
    before = client.get_experiment_by_name("tracking test")
    with pytest.raises(TrackingError, match=r"'tracking test' that is not a study of this project"):
        StudyRun.open(store, study)
    assert client.get_experiment_by_name("tracking test").tags == before.tags
    assert len(client.search_runs([experiment_id])) == 1


def test_empty_experiment_and_one_of_an_earlier_version_are_adopted(
    store: TrackingStore, study: Study, tmp_path: Path
) -> None:
    client = store.client
    location = tmp_path / "own location"
    experiment_id = client.create_experiment("tracking test", location.as_uri())
    StudyRun.open(store, study).close("FINISHED")
    client.delete_experiment_tag(experiment_id, "orchestrator.kind")
    StudyRun.open(store, study).close("FINISHED")
    tags = client.get_experiment_by_name("tracking test").tags
    assert tags["orchestrator.kind"] == "study"
    assert list(location.rglob("study.yaml"))
