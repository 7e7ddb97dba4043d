"""A study from Python, without training."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import orchestrator
from orchestrator import Study, StudyError
from orchestrator.console import InputError
from orchestrator.planning.measurements import save_measurements
from orchestrator.scheduling.devices import worker_device
from orchestrator.study.load import load_study
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingError, TrackingStore
from orchestrator.tracking.study_run import StudyRun
from pipelines.config import load_yaml
from tests.support.fabricated_studies import PLAIN, fabricate, fabricate_study, write_study
from tests.support.planned_study import resolved, timed, write_planned_study


def test_import_is_light() -> None:
    code = "import sys, orchestrator; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "ray", "mlflow", "pandas", "pydantic", "rich"} & set(loaded)
    with pytest.raises(AttributeError, match="Studdy"):
        _ = orchestrator.Studdy


def test_errors_are_names_of_the_package() -> None:
    with pytest.raises(orchestrator.StudyError, match="`study`"):
        Study({"studdy": "a"})
    assert issubclass(orchestrator.StudyError, orchestrator.UserError)
    assert issubclass(TrackingError, orchestrator.UserError)


def test_mapping_and_file_are_the_same_study(tmp_path: Path, small_streets: Path) -> None:
    file = write_study(tmp_path, small_streets, PLAIN)
    values = load_yaml(file.read_text())
    values["base"]["data"] = {"dataset": small_streets, "crop": np.array((64, 64))}
    values["base"]["training"]["epochs"] = np.int64(3)
    given, read = load_study(values), load_study(file)
    assert (given.config, given.trials, given.resolved) == (read.config, read.trials, read.resolved)
    assert Study(values, set={"training.epochs": np.int64(9)}, only="b").trials == ["b"]
    description = 'gr\u00fcn \U0001f6a6: # ["1"]'
    overridden = Study(values, set={"description": description, "training.learning_rate": 1e-5})
    assert overridden._study.config.description == description
    assert overridden._study.trials[0].experiment.training.learning_rate == 1e-5
    assert repr(Study(values)) == "<Study 'plain': 2 trials>"
    assert repr(Study(values, only="b")) == "<Study 'plain': 1 trial>"


def test_mapping_may_extend_a_file(
    tmp_path: Path, small_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(tmp_path, small_streets, PLAIN)
    monkeypatch.chdir(tmp_path)
    study = load_study({"study": "shorter", "extends": file.name, "seeds": (4, 5)})
    assert [trial.name for trial in study.trials][:2] == ["a, seed 4", "a, seed 5"]


def test_mapping_replaces_a_longer_list(
    tmp_path: Path, small_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1, 2]\n")
    monkeypatch.chdir(tmp_path)
    study = load_study({"study": "shorter", "extends": file.name, "seeds": [4]})
    assert [trial.name for trial in study.trials] == ["a, seed 4", "b, seed 4"]
    with pytest.raises(StudyError, match=r"the study: `seeds\.0` must be a whole number"):
        load_study({"study": "shorter", "extends": file.name, "seeds": ["x"]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variants": {"a": {"sets": {}}}}, "the study: unknown key `variants.a.sets`"),
        ({"variants": {"a": {}}, "seeds": object()}, "`seeds` is a object; use text, a number"),
        ({"variants": {"a": {}}, "extends": "nowhere.yaml"}, "nowhere.yaml, which does not exist"),
    ],
)
def test_mistakes_in_a_mapping_are_reported(values: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Study({"study": "s", **values})


def test_override_of_another_type_is_reported() -> None:
    with pytest.raises(StudyError, match=r"set: `training\.epochs` is a set; use text, a number"):
        Study({"study": "s", "variants": {"a": {}}}, set={"training.epochs": {1, 2}})


def test_frames_and_report_are_those_of_the_command(
    tmp_path: Path, small_streets: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a notebook
    file = fabricate_study(tmp_path, small_streets, PLAIN, fates={"b": "missing"})
    study = Study(file, storage=own_store)
    table, runs, report = study.table(), study.runs(), study.report()
    assert list(table["variant"]) == ["a", "b"]
    assert list(runs["state"]) == ["finished", "missing"]
    (miou,) = runs["miou"].dropna()
    assert miou == table["miou_mean"][0] == 100 * runs["val/miou"][0]
    assert not report.complete
    assert report._repr_html_().startswith('<iframe srcdoc="&lt;!')
    report.save(tmp_path / "report")
    lines = (tmp_path / "report" / "table.csv").read_text().splitlines()
    assert lines[0].split(",") == list(table.columns)
    assert "missing" in str(report)
    assert "\x1b" not in str(report)
    assert repr(report) == str(report)
    with pytest.raises(InputError, match=r"study\.yaml is a file; choose a directory"):
        report.save(file)
    assert report.markdown() == (tmp_path / "report" / "table.md").read_text()


def test_dtypes_do_not_depend_on_the_values(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    """One seed has no standard deviation, and a missing trial has no run."""
    grid = "grid: {model.channels: [8, 16]}\n"
    file = write_study(tmp_path, small_streets, PLAIN + grid)
    study = Study(file, storage=own_store)
    loaded = load_study(file)
    fabricate(loaded, own_store, {trial.name: "missing" for trial in loaded.trials})
    missing = study.runs()
    fabricate(loaded, own_store)
    runs, table = study.runs(), study.table()
    assert runs[list(missing)].dtypes.to_dict() == missing.dtypes.to_dict()
    assert (runs["epoch"].dtype, runs["hours"].dtype, runs["seed"].dtype) == (
        *("Int64", "float64", "Int64"),
    )
    assert list(missing["run_id"].isna()) == 4 * [True]
    assert table["miou_sd"].dtype == "float64"
    assert (table["miou_mean"] - 2 * table["miou_sd"]).isna().all()
    assert list(table["difference_n"].isna()) == [True, True, False, False]
    assert table["difference_n"].sum() == 2
    assert list(table["model.channels"]) == ["8", "16", "8", "16"]


def test_plan_of_a_profile_is_its_report(own_store: Path) -> None:
    values = {"study": "costs", "kind": "profile", "variants": {"a": {}}}
    plan = Study(values, storage=own_store).plan()
    assert "params M" in str(plan)


def test_study_without_a_store_is_reported(tmp_path: Path) -> None:
    study = Study({"study": "s", "variants": {"a": {}}}, storage=tmp_path)
    with pytest.raises(TrackingError, match="no tracking store"):
        study.table()


def save_times(file: Path, storage: Path) -> None:
    """Save a measurement of this machine, so that a plan needs no probe."""
    study, trials = resolved(file)
    measured = timed(trials[0], study, step=0.1)
    save_measurements(storage, [replace(measured, device=worker_device("cpu", 1.0))])


def test_plan_counts_the_hours_that_the_study_has_used(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    file = write_planned_study(tmp_path, small_streets)
    save_times(file, own_store)
    assert "limits.gpu_hours" not in str(Study(file, storage=own_store).plan())
    study, trials = resolved(file)
    store = TrackingStore(tracking_uri(own_store), own_store / "artifacts")
    study_run = StudyRun.open(store, study)
    run_id = study_run.begin_trial(trials[0], None, None)
    study_run.log_epoch(run_id, 1, {"trial/worker_hours": 0.4})
    study_run.end_trial(run_id, "KILLED")
    study_run.close("KILLED")
    plan = " ".join(str(Study(file, storage=own_store).plan()).split())
    assert "limits.gpu_hours will stop the study early; it has used 0.40 of them" in plan


def test_plan_is_a_frame_and_the_text_of_the_command(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_planned_study(tmp_path, small_streets)
    save_times(file, own_store)
    plan = Study(file, storage=own_store).plan(retry_failed=True, retrain_stale=True)
    printed = capsys.readouterr().out
    assert printed.startswith("opening the data")
    assert "wall time" not in printed
    assert list(plan.trials["state"]) == 6 * ["missing"]
    assert (plan.trials["seconds_low"] < plan.trials["seconds_high"]).all()
    assert plan.totals.loc["wall_seconds", "estimate"] > plan.trials["seconds"].max()
    assert "planned: 6 trials: 6 missing" in str(plan)
    assert repr(plan) == str(plan)
    assert os.linesep.join(str(plan).splitlines()[:1]) in plan._repr_html_()
