"""One trial's run, as the ledger holds it."""

from dataclasses import dataclass
from typing import Literal

from mlflow.entities import Run

RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

# What every tag of this project begins with.
TAG = "orchestrator."


@dataclass(frozen=True)
class Record:
    """One trial's run as the ledger holds it. epoch: the last one recorded, 0 before the first."""

    run_id: str
    study: str
    identity: str
    status: RunStatus
    code: str
    epoch: int
    metrics: dict[str, float]


def read_record(run: Run, study: str) -> Record:
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
    )
