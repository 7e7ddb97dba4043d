"""All studies of a tracking store, for those who look on: who runs them, how far they are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.ledger.records import TAG, Record, abandoned, holder, read_record
from orchestrator.ledger.store import Ledger
from orchestrator.ownership import Owner

StudyState = Literal["running", "finished", "failed", "stopped"]

_STATES: dict[str, StudyState] = {"FINISHED": "finished", "FAILED": "failed"}


@dataclass(frozen=True)
class StudyView:
    """A study as it stands. owner: the process that runs it, and seconds since its sign of life.

    trials: of this study; links: cells that were trained by others. started: seconds since the
    epoch. command: how it was last run, as `StudyRun.open` was told. asked_to_stop: by another
    terminal.
    """

    name: str
    experiment_id: str
    parent_id: str
    state: StudyState
    owner: tuple[Owner, float] | None
    trials: Sequence[Record]
    links: int
    started: float
    command: str
    asked_to_stop: bool


def studies(ledger: Ledger) -> list[StudyView]:
    """Every study, in the order in which they were begun."""
    names = ledger.studies()
    parents: dict[str, Run] = {}
    trials: dict[str, list[Record]] = {}
    links: dict[str, int] = {}
    for run in ledger.search(list(names), f"tags.`{TAG}kind` != 'none'"):
        kind, experiment = run.data.tags[f"{TAG}kind"], run.info.experiment_id
        if kind == "study":
            parents[experiment] = run
        elif kind == "trial":
            trials.setdefault(experiment, []).append(read_record(run, names[experiment]))
        elif kind == "link":
            links[experiment] = links.get(experiment, 0) + 1
    found = [
        StudyView(
            name=names[experiment],
            experiment_id=experiment,
            parent_id=parent.info.run_id,
            state="running" if holder(parent) else _STATES.get(parent.info.status, "stopped"),
            owner=holder(parent),
            trials=sorted(trials.get(experiment, []), key=lambda record: record.name),
            links=links.get(experiment, 0),
            started=parent.info.start_time / 1000,
            command=parent.data.tags.get(f"{TAG}command", ""),
            asked_to_stop=f"{TAG}stop" in parent.data.tags,
        )
        for experiment, parent in parents.items()
    ]
    return sorted(found, key=lambda view: view.started)


def ask_to_stop(ledger: Ledger, view: StudyView) -> None:
    """Leave word for the process that runs the study, wherever it is; it looks every few
    seconds."""
    word = f"{Owner.this_process().described}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
    ledger.set_tags(view.parent_id, {f"{TAG}stop": word})


def close_abandoned(ledger: Ledger) -> None:
    """Close as KILLED what dead processes left RUNNING, in every study."""
    names = ledger.studies()
    query = f"tags.`{TAG}kind` = 'study' and attributes.status = 'RUNNING'"
    dead = [parent for parent in ledger.search(list(names), query) if abandoned(parent)]
    for parent in dead:
        children = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        for run in ledger.search([parent.info.experiment_id], children):
            if run.info.status in ("RUNNING", "SCHEDULED"):
                _close(ledger, run)
        _close(ledger, parent)


def _close(ledger: Ledger, run: Run) -> None:
    try:
        reason = "its process ended without closing it"
        ledger.set_tags(run.info.run_id, {f"{TAG}reason": reason, f"{TAG}claim": ""})
        ledger.client.set_terminated(run.info.run_id, "KILLED")
    except MlflowException:
        return  # deleted meanwhile
