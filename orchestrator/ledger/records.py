"""What is read from a run of MLflow's: a trial as the ledger holds it, and who is at work."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlflow.entities import Run

from orchestrator.ownership import Owner

RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

# What every tag of this project begins with.
TAG = "orchestrator."
# What a finished trial measured of its device, see orchestrator.measurements.
MEASUREMENT = f"{TAG}measurement"
# `early` on the run of a trial that early stopping has given up.
STOPPED = f"{TAG}stopped"


@dataclass(frozen=True)
class Record:
    """One trial's run as the ledger holds it.

    name: the trial's name in its study. epoch: the last one recorded, 0 before the first. code: the
    version that trained it, two joined by `+` where it was resumed under another one, empty where
    it never started. stopped_early: given up by the early stopping of a search. reason: why it
    ended, where that is worth a word. in_work: another living process trains it or has it
    scheduled. claimed: that process has settled who trains it.
    """

    run_id: str
    study: str
    identity: str
    status: RunStatus
    code: str
    epoch: int
    metrics: dict[str, float]
    name: str = ""
    experiment_id: str = ""
    reason: str = ""
    stopped_early: bool = False
    in_work: bool = False
    claimed: bool = False

    @property
    def started(self) -> bool:
        """Whether its training ever began."""
        return self.code != ""


def read_record(run: Run, study: str, in_work: bool = False) -> Record:
    """A run of MLflow's in the study's own terms. study: the name of the run's experiment."""
    tags, metrics = run.data.tags, run.data.metrics
    return Record(
        run_id=run.info.run_id,
        study=study,
        identity=tags.get(f"{TAG}identity", ""),
        status=run.info.status,
        code=tags.get(f"{TAG}code", ""),
        epoch=int(metrics.get("epoch", 0)),
        metrics=dict(metrics),
        name=tags.get(f"{TAG}trial", run.info.run_name),
        experiment_id=run.info.experiment_id,
        reason=tags.get(f"{TAG}reason", ""),
        stopped_early=tags.get(STOPPED) == "early",
        in_work=in_work and run.info.status in ("SCHEDULED", "RUNNING"),
        claimed=tags.get(f"{TAG}claim") == "held",
    )


def evaluations_in(tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What a run's tags say of each later evaluation of it, by the evaluation's name."""
    start = f"{TAG}eval."
    found: dict[str, dict[str, str]] = {}
    for tag, value in tags.items():
        if tag.startswith(start):
            name, _, key = tag.removeprefix(start).rpartition(".")
            found.setdefault(name, {})[key] = value
    return found


def holder(parent: Run) -> tuple[Owner, float] | None:
    """The living process that runs a study, and the seconds since its last sign of life; None where
    none does. This process itself does not count."""
    if parent.info.status != "RUNNING":
        return None
    tags = parent.data.tags
    owner = Owner.parse(tags.get(f"{TAG}owner", ""))
    age = time.time() - float(tags.get(f"{TAG}heartbeat", "0"))
    return (owner, age) if owner is not None and owner.may_be_alive(age) else None


def abandoned(parent: Run) -> bool:
    """Whether a study's run is RUNNING although its process is dead."""
    owner = Owner.parse(parent.data.tags.get(f"{TAG}owner", ""))
    mine = owner == Owner.this_process()
    return parent.info.status == "RUNNING" and not mine and holder(parent) is None
