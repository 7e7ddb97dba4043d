"""Runs of trials whose study was edited: new names, labels and grid axes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run

from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.descriptions import trial_note
from orchestrator.tracking.links import sync_links
from orchestrator.tracking.queries import read_snapshot
from orchestrator.tracking.renamed import rename_runs
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from orchestrator.tracking.tags import sample_in
from tests.support.tracked_trials import decision_on, finish

STUDY = """\
study: edited
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {precision: fp32}
compare_to: full
variants:
  full: {label: Full}
  none: {label: No flows, set: {model: {flows: []}}}
grid: {training.epochs: [3]}
"""
NOTE = "mlflow.note.content"


class EditedStudy:
    """A study file that is edited between commands."""

    def __init__(self, file: Path, store: TrackingStore) -> None:
        self.file = file
        self.store = store

    def load(self, text: str, only: tuple[str, ...] = ()) -> tuple[Study, list[ResolvedTrial]]:
        self.file.write_text(text)
        study = load_study(self.file, only=only)
        return study, resolve_trials(study.trials, "cpu", self.file.parent)

    def runs_of(self, study_run: StudyRun, trials: list[ResolvedTrial]) -> dict[str, TrialRun]:
        decisions = {trial.name: decision_on(study_run, trial) for trial in trials}
        return {name: decision.run for name, decision in decisions.items() if decision.run}

    def rename(self, text: str, only: tuple[str, ...] = ()) -> bool:
        """Run a command on the edited study that trains nothing."""
        study, trials = self.load(text, only)
        study_run = StudyRun.open(self.store, study)
        renamed = rename_runs(study_run, trials, self.runs_of(study_run, trials))
        finished = self.runs_of(study_run, trials)
        sync_links(study_run, {trial.name: trial for trial in trials}, finished)
        study_run.close("FINISHED")
        return renamed

    def finish(self, text: str) -> list[str]:
        """Train the study; its last trial fails. Return the ids of its runs."""
        study, trials = self.load(text)
        study_run = StudyRun.open(self.store, study)
        run_ids = [finish(study_run, trial) for trial in trials]
        for trial, run_id in zip(trials, run_ids, strict=True):
            runs = {trial.name: (study_run.experiment_id, run_id)}
            study_run.describe_trial(
                run_id, trial_note(trial, study, runs, study_run.experiment_id)
            )
        study_run.end_trial(run_ids[-1], "FAILED", "out of memory")
        study_run.close("FAILED")
        return run_ids


@pytest.fixture
def edited(tmp_path: Path, store: TrackingStore) -> EditedStudy:
    return EditedStudy(tmp_path / "study.yaml", store)


def trained(run: Run) -> Mapping[str, Any]:
    """Return what no edit of a name may change."""
    info = run.info
    times = (info.start_time, info.end_time, info.status, info.artifact_uri)
    return {**run.data.params, **run.data.metrics, "times": times}


@pytest.mark.slow
def test_runs_take_the_present_names_of_their_trials(
    edited: EditedStudy, store: TrackingStore, small_streets: Path
) -> None:
    text = STUDY.replace("DATASET", str(small_streets))
    full, none = edited.finish(text)
    before = {run_id: store.client.get_run(run_id) for run_id in (full, none)}
    assert before[none].data.tags["orchestrator.trial"] == "none, 3"
    (other,) = edited.finish(text.replace("study: edited", "study: other").split("  none")[0])
    others = store.client.get_run(other)

    without_grid = text.replace("grid: {training.epochs: [3]}\n", "seeds: [0, 1]\n")
    without_grid = without_grid.replace("precision: fp32", "precision: fp32, epochs: 3")
    renamed = without_grid.replace("full", "fenet").replace("label: Full", "label: FENet")
    assert edited.rename(renamed)
    after = {run_id: store.client.get_run(run_id) for run_id in (full, none)}
    for run_id, name, label, variant in (
        (full, "fenet, seed 0", "FENet", "fenet"),
        (none, "none, seed 0", "No flows", "none"),
    ):
        tags = after[run_id].data.tags
        assert tags["orchestrator.trial"] == name
        assert (tags["orchestrator.label"], tags["orchestrator.variant"]) == (label, variant)
        assert not any(key.startswith("orchestrator.axis.") for key in tags)
        assert after[run_id].info.run_name == f"{variant}, dfnet1, streets, seed 0"
        assert trained(after[run_id]) == trained(before[run_id])
    note = after[full].data.tags[NOTE]
    assert note.startswith("**FENet** (`fenet`)")
    assert "epochs" not in note
    assert after[none].data.tags["orchestrator.reason"] == "out of memory"
    note = after[none].data.tags[NOTE]
    assert "Compared with [fenet, seed 0](" in note
    assert f"/runs/{full}" in note
    assert note.endswith("**Failed**: out of memory")
    assert store.client.get_run(other).to_dictionary() == others.to_dictionary()
    (study,) = read_snapshot(store, "edited").studies
    assert study.links == []


@pytest.mark.slow
def test_text_of_users_stays_unless_the_study_is_edited(
    edited: EditedStudy, store: TrackingStore, small_streets: Path
) -> None:
    text = STUDY.replace("DATASET", str(small_streets))
    run_id, other = edited.finish(text)
    store.set_tags(other, {NOTE: "mine"})
    store.client.update_run(run_id, name="the good one")
    store.set_tags(run_id, {NOTE: "see the notebook"})
    before = store.client.get_run(run_id).to_dictionary()
    assert not edited.rename(text)
    assert store.client.get_run(run_id).to_dictionary() == before
    assert edited.rename(text.replace("label: Full", "label: Baseline"))
    tags = store.client.get_run(run_id).data.tags
    assert tags["orchestrator.label"] == "Baseline"
    assert store.client.get_run(other).data.tags[NOTE] == "mine"
    assert tags[NOTE].startswith("**Baseline** (`full`)")


@pytest.mark.slow
def test_rows_with_equal_settings_keep_one_run_and_one_link(
    edited: EditedStudy, store: TrackingStore, small_streets: Path
) -> None:
    text = STUDY.replace("DATASET", str(small_streets)).split("  none")[0] + "  same: {}\n"
    study, trials = edited.load(text)
    study_run = StudyRun.open(store, study)
    run_id = finish(study_run, trials[0])
    study_run.close("FINISHED")

    def state() -> tuple[list[str], int]:
        (study,) = read_snapshot(store, "edited").studies
        return [run.name for run in study.trials], len(study.links)

    assert not edited.rename(text)
    assert state() == (["full"], 1)
    assert not edited.rename(text, only=("same",))
    assert state() == (["full"], 1)
    assert edited.rename(text.replace("full", "first").replace("same: {}", "second: {}"))
    assert state() == (["first"], 1)
    assert edited.rename(text.replace("  full: {label: Full}\n", "").replace("full", "same"))
    assert state() == (["same"], 0)
    assert store.client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_partial_commands_keep_the_links_between_runs(
    edited: EditedStudy, store: TrackingStore, small_streets: Path
) -> None:
    text = STUDY.replace("DATASET", str(small_streets))
    full, none = edited.finish(text)
    assert edited.rename(text.replace("label: No flows", "label: Nothing"), only=("none*",))
    assert f"/runs/{full}" in store.client.get_run(none).data.tags[NOTE]


def test_half_removed_sample_is_none() -> None:
    assert sample_in({"orchestrator.sample_values": "{}"}) is None
