"""Rows of a study that were trained elsewhere: under another study, or under another row's name.

A link is a run of its own, so that the study's page in MLflow shows every trial. It repeats the
final figures of the run it stands for, and counts as no training.
"""

from collections.abc import Mapping

from orchestrator.study.resolve import ResolvedTrial
from orchestrator.tracking import tags as tag
from orchestrator.tracking.descriptions import link_note, run_name
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.study_run import StudyRun


def sync_links(
    study_run: StudyRun, trials: Mapping[str, ResolvedTrial], finished: Mapping[str, TrialRun]
) -> None:
    """Make the study's links true. By trial name, trials: those the command is about; finished: the
    runs that stand for them.

    A trial gets a link where its run was trained under another study or another name, with the
    figures that the run has by now. A link that leads to no finished run any more is deleted.
    """
    wanted = {
        name: record
        for name, record in finished.items()
        if (record.study, record.name) != (study_run.study.config.study, name)
    }
    store = study_run.store
    for run in store.search([study_run.experiment_id], f"tags.`{tag.KIND}` = 'link'"):
        name = run.data.tags.get(tag.TRIAL, "")
        target = wanted.get(name)
        if target is not None and run.data.tags.get(tag.RUN) == target.run_id:
            present = run.data.metrics
            new = {key: value for key, value in target.metrics.items() if present.get(key) != value}
            store.log_metrics(run.info.run_id, new, step=target.epoch)
            del wanted[name]
        elif name in trials:
            store.client.delete_run(run.info.run_id)
    for name, record in wanted.items():
        _link(study_run, trials[name], record)


def _link(study_run: StudyRun, trial: ResolvedTrial, record: TrialRun) -> None:
    tags = {
        f"{tag.KIND}": "link",
        tag.TRIAL: trial.name,
        tag.RUN: record.run_id,
        tag.IDENTITY: trial.identity,
        tag.CODE: record.code,
        tag.VARIANT: trial.variant,
        tag.SEED: str(trial.experiment.seed),
        **{f"{tag.AXIS}{axis}": str(value) for axis, value in trial.axes.items()},
        "mlflow.parentRunId": study_run.parent_id,
        "mlflow.note.content": link_note(record),
    }
    store = study_run.store
    run = store.client.create_run(
        study_run.experiment_id, run_name=f"{run_name(trial)} (linked)", tags=tags
    )
    store.log_metrics(run.info.run_id, record.metrics, step=record.epoch)
    store.client.set_terminated(run.info.run_id, "FINISHED")
