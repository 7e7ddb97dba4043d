"""Trials of an edited study: marked in MLflow and by `orchestrator.studies`."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.storage import Storage
from orchestrator.studies.__main__ import main
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.queries import read_snapshot
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from orchestrator.tracking.superseded import mark_superseded, superseded_note
from orchestrator.training.worker_logs import output_directory, output_file
from tests.support.tracked_trials import finish

TAG = "orchestrator.superseded"


def run_study(store: TrackingStore, study: Study, trial: ResolvedTrial, run: bool = True) -> str:
    """Run a command on the study: mark its runs and, with `run`, finish its trial."""
    study_run = StudyRun.open(store, study)
    run_id = finish(study_run, trial) if run else ""
    mark_superseded(study_run, [trial], read_snapshot(store).trials)
    study_run.close("FINISHED")
    return run_id


def test_runs_of_an_earlier_definition_are_marked(
    store: TrackingStore,
    study: Study,
    trial: ResolvedTrial,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = store.client
    assert isinstance(client, MlflowClient)
    storage = Storage.parse(str(tmp_path))
    first = run_study(store, study, trial)
    edited_file = tmp_path / "edited.yaml"
    edited_file.write_text(study.text.replace("channels: 8", "channels: 16"))
    edited = load_study(edited_file)
    (edited_trial,) = resolve_trials(edited.trials, "cpu", tmp_path)
    assert edited_trial.name == trial.name

    def note(study: Study, trial: ResolvedTrial) -> str:
        return superseded_note(study, [trial], read_snapshot(store).trials)

    assert note(study, trial) == ""
    assert "has 1 finished trial that this file does not have" in note(edited, edited_trial)
    assert f"with other settings: {trial.name!r}; " in note(edited, edited_trial)
    tried = load_study(tmp_path / "edited.yaml", [("training.epochs", "9")])
    assert note(tried, edited_trial) == "", "a --set does not change the study"
    second = run_study(store, edited, edited_trial)
    assert note(edited, edited_trial) == "", "the runs are marked"
    for run_id in (first, second):
        log = Path(output_file(output_directory(storage, run_id), 0))
        log.parent.mkdir(parents=True)
        log.write_text(f"log of {run_id}\n")

    def superseded() -> list[bool]:
        return [TAG in client.get_run(run_id).data.tags for run_id in (first, second)]

    def logs() -> tuple[str, str]:
        assert main(["logs", trial.name, "--storage", str(tmp_path)]) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    assert superseded() == [True, False]
    assert logs()[0] == f"log of {second}\n"
    assert f"2 runs are called {trial.name}; this is run {second}" in logs()[1]
    assert main(["status", "tracking test", "--storage", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("1 finished, 1 not in the study any more" in line for line in lines)
    marked = [line for line in lines if "finished, not in the study any more" in line]
    assert [line.split()[-1] for line in marked] == [first]

    # The study's earlier definition comes back, and finds its finished run.
    run_study(store, study, trial, run=False)
    assert superseded() == [False, True]
    assert logs()[0] == f"log of {first}\n"


def test_trials_that_only_leaves_out_keep_their_mark(
    store: TrackingStore, study: Study, trial: ResolvedTrial, tmp_path: Path
) -> None:
    first = run_study(store, study, trial)
    file = tmp_path / "two.yaml"
    file.write_text(study.text + "  other: {set: {model: {channels: 16}}}\n")
    two = load_study(file, only=["other"])
    (other,) = resolve_trials(two.trials, "cpu", tmp_path)
    run_study(store, two, other)
    assert TAG not in store.client.get_run(first).data.tags
    # Nor is it marked under another name: its identity is not known here.
    file.write_text(two.text.replace("full: {}", "renamed: {}"))
    run_study(store, load_study(file, only=["other"]), other, run=False)
    assert TAG not in store.client.get_run(first).data.tags
    file.write_text(study.text.replace("full: {}", "other: {set: {model: {channels: 16}}}"))
    run_study(store, load_study(file), other, run=False)
    assert store.client.get_run(first).data.tags[TAG] == "yes"
