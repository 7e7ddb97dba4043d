"""`orchestrator.studies` on recorded trials: their order, and their names."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.storage import Storage
from orchestrator.studies import commands
from orchestrator.studies.__main__ import main
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.sweep.options import SweepOptions
from orchestrator.tracking.links import sync_links
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.queries import read_snapshot
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from orchestrator.training.worker_logs import output_directory, output_file
from tests.support.tracked_trials import finish

STUDY = """\
study: named
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {precision: fp32}
variants:
  zebra: {label: Without flows, set: {model: {flows: []}}}
  apple: {label: FENet}
seeds: [0, 1]
"""


def test_trials_have_the_files_order_and_are_found_by_label(
    tmp_path: Path, small_streets: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = TrackingStore(tracking_uri(tmp_path), tmp_path / "artifacts")
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(small_streets)))
    study = load_study(file)
    study_run = StudyRun.open(store, study)
    run_ids = []
    for trial in resolve_trials(study.trials, "cpu", tmp_path):
        run_ids.append(finish(study_run, trial))
        directory = output_directory(Storage.parse(str(tmp_path)), run_ids[-1])
        log = Path(output_file(directory, 0))
        log.parent.mkdir(parents=True)
        log.write_text(f"log of {trial.name}\n")
    study_run.close("FINISHED")

    storage = ["--storage", str(tmp_path)]
    assert main(["status", "named", *storage]) == 0
    output = capsys.readouterr().out
    lines = [line.split("  ")[0] for line in output.splitlines()]
    names = ["zebra, seed 0", "zebra, seed 1", "apple, seed 0", "apple, seed 1"]
    assert [line for line in lines if line in names] == names
    assert all(run_id in output for run_id in run_ids)  # what `logs` and `runs:/ID` take
    for name in ("apple, seed 1", "FENet, seed 1", run_ids[-1]):
        assert main(["logs", name, *storage]) == 0
        assert capsys.readouterr().out == "log of apple, seed 1\n"
    assert main(["logs", "FENet, seed 2", *storage]) == 2


def test_log_of_a_trial_that_has_not_started(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = TrackingStore(tracking_uri(own_store), own_store / "artifacts")
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(small_streets)))
    study = load_study(file)
    study_run = StudyRun.open(store, study)
    waiting, ended, *_ = resolve_trials(study.trials, "cpu", tmp_path)
    study_run.begin_trial(waiting, None, None)
    study_run.end_trial(study_run.begin_trial(ended, None, None), "KILLED")
    for trial, state in ((waiting, "waiting"), (ended, "missing")):
        assert main(["logs", trial.name, "--storage", str(own_store)]) == 2
        message = (
            f"error: trial '{trial.name}' has not started (state: {state}), so it has no log\n"
        )
        assert capsys.readouterr().out == message
    study_run.start_trial(finish(study_run, ended), ended.code)
    assert main(["logs", ended.name, "--worker", "3", "--storage", str(own_store)]) == 2
    assert f"error: trial '{ended.name}' has no log of worker 3" in capsys.readouterr().out
    study_run.close("KILLED")


@pytest.mark.slow
def test_each_trial_has_one_line(
    tmp_path: Path,
    small_streets: Path,
    empty_store: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one that was trained twice, and one that failed here and that another study trained."""
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = TrackingStore(tracking_uri(tmp_path), tmp_path / "artifacts")
    file = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets)).replace("[0, 1]", "[0]")
    file.write_text(text.replace("study: named", "study: other").replace("apple", "pear"))
    other = load_study(file)
    study_run = StudyRun.open(store, other)
    finish(study_run, resolve_trials(other.trials, "cpu", tmp_path)[1])
    study_run.close("FINISHED")
    file.write_text(text)
    study = load_study(file)
    study_run = StudyRun.open(store, study)
    zebra, apple = resolve_trials(study.trials, "cpu", tmp_path)
    finish(study_run, zebra)
    newest = finish(study_run, zebra)
    failed = study_run.begin_trial(apple, None, None)
    study_run.end_trial(failed, "FAILED", "out of memory")
    (run,) = (run for run in read_snapshot(store).trials if run.name == "pear")
    sync_links(study_run, {"apple": apple}, {"apple": run})
    study_run.close("FINISHED")

    storage = ["--storage", str(tmp_path)]
    assert main(["status", "named", *storage]) == 0
    first, second = capsys.readouterr().out.split("trial  ", 1)
    assert "1 finished, 1 linked" in first
    lines, names = [line.split() for line in second.splitlines()], ("zebra", "apple")
    shown = [(line[0], line[1], line[-1]) for line in lines if line and line[0] in names]
    assert shown == [("zebra", "finished", newest), ("apple", "linked", run.run_id)]
    store.client.delete_run(failed)
    assert main(["logs", "FENet", "--study", "named", *storage]) == 2  # of the other study's run
    assert "trial 'apple' has no log of worker 0" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["status"], ["stop"], ["compare", "named"]])
def test_only_studies_are_offered(
    command: list[str],
    tmp_path: Path,
    small_streets: Path,
    own_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A store also has experiments of other programs, and MLflow's own `Default`."""
    storage = ["--storage", str(own_store)]
    store = TrackingStore(tracking_uri(own_store), own_store / "artifacts")
    assert main(["status", "named", *storage]) == 2
    assert "no study is called 'named'; there is none in sqlite:" in capsys.readouterr().out
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(small_streets)))
    StudyRun.open(store, load_study(file)).close("KILLED")
    assert main([*command, "Default", *storage]) == 2
    assert "no study is called 'Default'; known: named\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ([], "10.0.0.5:6379"),
        (["--address", "10.0.0.6:6379"], "10.0.0.6:6379"),
        (["--address", "local"], None),
    ],
)
def test_study_is_resumed_on_the_cluster_that_trained_it(
    options: list[str],
    address: str | None,
    tmp_path: Path,
    small_streets: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = TrackingStore(tracking_uri(tmp_path), tmp_path / "artifacts")
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(small_streets)))
    study_run = StudyRun.open(store, load_study(file))
    command = {
        "directory": str(tmp_path),
        "only": ["a*"],
        "set": ["seeds=[1]"],
        "address": "10.0.0.5:6379",
    }
    study_run.record_command(json.dumps(command))
    study_run.close("KILLED")
    passed: list[SweepOptions] = []

    def sweep(file: Path, options: SweepOptions, console: Console) -> int:
        passed.append(options)
        assert sys.path[0] == str(Path.cwd()) == str(tmp_path)
        return 0

    monkeypatch.setattr(commands, "sweep", sweep)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")  # of another cluster
    path = list(sys.path)
    assert main(["resume", "named", "--storage", str(tmp_path), *options]) == 0
    assert sys.path == path
    assert passed == [
        SweepOptions([("seeds", "[1]")], ["a*"], storage=str(tmp_path), address=address)
    ]
