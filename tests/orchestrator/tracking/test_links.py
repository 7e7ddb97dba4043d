"""Links to trials that another study trained."""

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from orchestrator.study.load import load_study
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.links import sync_links
from orchestrator.tracking.queries import read_snapshot
from orchestrator.tracking.study_run import StudyRun
from tests.support.tracked_trials import decision_on, finish


def other_study(study: Study, tmp_path: Path) -> Study:
    file = tmp_path / "other.yaml"
    file.write_text(study.text.replace("study: tracking test", "study: another"))
    return load_study(file)


@pytest.mark.slow
def test_finished_trial_of_another_study_is_linked_until_deleted(
    study_run: StudyRun, trial: ResolvedTrial, study: Study, uri: str, tmp_path: Path
) -> None:
    other = StudyRun.open(study_run.store, other_study(study, tmp_path))
    run_id = finish(other, trial)
    other.close("FINISHED")
    decision = decision_on(study_run, trial)
    record = decision.run
    assert record is not None
    assert (decision.action, record.run_id, record.study) == ("link", run_id, "another")

    client = MlflowClient(uri)

    def links() -> list[Run]:
        runs = client.search_runs([study_run.experiment_id])
        return [run for run in runs if run.data.tags["orchestrator.kind"] == "link"]

    name = trial.name
    for _ in range(2):
        sync_links(study_run, {name: trial}, {name: record})
        (link,) = links()
        assert link.info.status == "FINISHED"
        assert link.data.metrics["val/miou"] == 0.5
        target = client.get_run(run_id).info
        assert (link.info.start_time, link.info.end_time) == (target.start_time, target.end_time)
        assert f"/runs/{run_id}" in link.data.tags["mlflow.note.content"]
        assert link.data.tags["mlflow.parentRunId"] == study_run.parent_id
    # The link gets the metrics that a later evaluation adds or changes.
    for miou in (0.6, 0.4):
        study_run.store.log_metrics(run_id, {"eval/flip/miou": miou}, step=0)
        sync_links(study_run, {name: trial}, {name: study_run.store.trial_run(run_id)})
        (refreshed,) = links()
        assert refreshed.info.run_id == link.info.run_id
        assert refreshed.info.status == "FINISHED"
        assert refreshed.data.metrics["eval/flip/miou"] == miou
    # A link is not a second record of the training.
    assert len(read_snapshot(study_run.store).by_identity([trial.identity])[trial.identity]) == 1
    client.delete_run(run_id)
    assert decision_on(study_run, trial).state == "missing"
    sync_links(study_run, {name: trial}, {})
    assert links() == []


@pytest.mark.slow
def test_links_follow_both_studies(
    study_run: StudyRun, trial: ResolvedTrial, study: Study, uri: str, tmp_path: Path
) -> None:
    """The other study renames its trial; this one changes its label, then removes it."""
    other = StudyRun.open(study_run.store, other_study(study, tmp_path))
    finish(other, trial)
    other.close("FINISHED")
    run = decision_on(study_run, trial).run
    assert run is not None

    def links() -> list[Run]:
        runs = MlflowClient(uri).search_runs([study_run.experiment_id])
        return [run for run in runs if run.data.tags["orchestrator.kind"] == "link"]

    sync_links(study_run, {trial.name: trial}, {trial.name: run})
    (first,) = links()
    labeled = replace(trial, label="Full network")
    sync_links(study_run, {trial.name: labeled}, {trial.name: replace(run, name="renamed")})
    (link,) = links()
    assert link.info.run_id == first.info.run_id
    assert link.data.tags["orchestrator.label"] == "Full network"
    assert "Trained as [renamed](" in link.data.tags["mlflow.note.content"]
    sync_links(study_run, {}, {})  # `--only` leaves it out
    assert len(links()) == 1
    study_run.study = replace(study, trials=(), all_trials=())
    sync_links(study_run, {}, {})
    assert links() == []
