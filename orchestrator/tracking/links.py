"""Links: rows of a study that another study trained, or another row with the same settings.

A link is a run of its own, so that the study's page in MLflow shows every trial. It repeats the
final metrics of the run that it refers to, and does not count as a training.
"""

from collections.abc import Mapping

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking import tags as tag
from orchestrator.tracking.descriptions import link_note, run_name
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.study_run import StudyRun


def sync_links(
    study_run: StudyRun, trials: Mapping[str, ResolvedTrial], finished: Mapping[str, TrialRun]
) -> None:
    """Create, update and delete the study's links. trials: the command's trials by name; finished:
    their finished runs by trial name.

    A trial gets a link if its run belongs to another study or another row; the link shows that
    run's current name and metrics. A link is deleted if its run is no longer finished, or if the
    study no longer has its trial. A trial that `--only` leaves out keeps its link. Does nothing if
    the study's page shows another table than this command's.
    """
    if not study_run.page.is_own:
        return
    left_out = {trial.name for trial in study_run.study.all_trials} - trials.keys()
    missing = {
        name: run
        for name, run in finished.items()
        if (run.study, run.name) != (study_run.study.config.study, name)
    }
    store = study_run.store
    for link in store.search([study_run.experiment_id], f"tags.`{tag.KIND}` = 'link'"):
        name = link.data.tags.get(tag.TRIAL, "")
        target = missing.get(name)
        if target is not None and link.data.tags.get(tag.RUN) == target.run_id:
            old = link.data.metrics
            new = {key: value for key, value in target.metrics.items() if old.get(key) != value}
            store.log_metrics(link.info.run_id, new, step=target.epoch)
            tags = _tags(trials[name], target)
            if any(link.data.tags.get(key) != value for key, value in tags.items()):
                store.set_tags(link.info.run_id, tags)
            del missing[name]
        elif name not in left_out:
            store.client.delete_run(link.info.run_id)
    for name, run in missing.items():
        _create_link(study_run, trials[name], run)


def _tags(trial: ResolvedTrial, target: TrialRun) -> dict[str, str]:
    return {**tag.trial_tags(trial), "mlflow.note.content": link_note(target)}


def _create_link(study_run: StudyRun, trial: ResolvedTrial, target: TrialRun) -> None:
    tags = {
        tag.KIND: "link",
        tag.RUN: target.run_id,
        tag.IDENTITY: trial.identity,
        tag.CODE: target.code,
        **_tags(trial, target),
        "mlflow.parentRunId": study_run.parent_id,
    }
    store = study_run.store
    link = store.client.create_run(
        study_run.experiment_id,
        start_time=round(1000 * target.started_at),
        run_name=f"{run_name(trial)} (linked)",
        tags=tags,
    )
    store.log_metrics(link.info.run_id, target.metrics, step=target.epoch)
    end = target.started_at if target.ended_at is None else target.ended_at
    store.client.set_terminated(link.info.run_id, "FINISHED", round(1000 * end))
