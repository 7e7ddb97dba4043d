"""Rows of a study that were trained elsewhere: under another study, or under another row's name.

A link is a run of its own, so that the study's page in MLflow shows every cell. It repeats the
final figures of the run it stands for, and counts as no training.
"""

from collections.abc import Mapping

from orchestrator.study.resolve import Cell
from orchestrator.tracking.descriptions import link_note, run_name
from orchestrator.tracking.runs import TAG, Record
from orchestrator.tracking.study_run import StudyRun


def keep_links(
    study_run: StudyRun, cells: Mapping[str, Cell], finished: Mapping[str, Record]
) -> None:
    """Make the study's links true. By trial name, cells: those the command is about; finished: the
    runs that stand for them.

    A cell gets a link where its run was trained under another study or another name, with the
    figures that the run has by now. A link that leads to no finished run any more is deleted.
    """
    wanted = {
        name: record
        for name, record in finished.items()
        if (record.study, record.name) != (study_run.plan.study.study, name)
    }
    ledger = study_run.ledger
    for run in ledger.search([study_run.experiment_id], f"tags.`{TAG}kind` = 'link'"):
        name = run.data.tags.get(f"{TAG}trial", "")
        target = wanted.get(name)
        if target is not None and run.data.tags.get(f"{TAG}run") == target.run_id:
            present = run.data.metrics
            new = {key: value for key, value in target.metrics.items() if present.get(key) != value}
            ledger.log_metrics(run.info.run_id, new, step=target.epoch)
            del wanted[name]
        elif name in cells:
            ledger.client.delete_run(run.info.run_id)
    for name, record in wanted.items():
        _link(study_run, cells[name], record)


def _link(study_run: StudyRun, cell: Cell, record: Record) -> None:
    trial = cell.trial
    tags = {
        f"{TAG}kind": "link",
        f"{TAG}trial": trial.name,
        f"{TAG}run": record.run_id,
        f"{TAG}identity": cell.identity,
        f"{TAG}code": record.code,
        f"{TAG}variant": trial.variant,
        f"{TAG}seed": str(trial.experiment.seed),
        **{f"{TAG}axis.{axis}": str(value) for axis, value in trial.axes.items()},
        "mlflow.parentRunId": study_run.parent_id,
        "mlflow.note.content": link_note(record),
    }
    ledger = study_run.ledger
    run = ledger.client.create_run(
        study_run.experiment_id, run_name=f"{run_name(cell)} (linked)", tags=tags
    )
    ledger.log_metrics(run.info.run_id, record.metrics, step=record.epoch)
    ledger.client.set_terminated(run.info.run_id, "FINISHED")
