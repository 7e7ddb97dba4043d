"""Closes the runs that ended processes left open."""

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.tracking import tags as tag
from orchestrator.tracking.runs import ENDED_UNCLOSED
from orchestrator.tracking.store import TrackingStore


def close_abandoned(store: TrackingStore) -> None:
    """Close as KILLED the runs that ended processes left RUNNING, in every study."""
    query = f"tags.`{tag.KIND}` = 'study' and attributes.status = 'RUNNING'"
    for parent in store.search(list(store.experiment_names()), query):
        # Read again, because another process may have taken the study over since.
        if not store.liveness.has_ended(parent) or not _has_still_ended(store, parent):
            continue
        children = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        for run in store.search([parent.info.experiment_id], children):
            if run.info.status in ("RUNNING", "SCHEDULED"):
                _close(store, run)
        _close(store, parent)


def _has_still_ended(store: TrackingStore, parent: Run) -> bool:
    try:
        return store.liveness.has_ended(store.client.get_run(parent.info.run_id))
    except MlflowException:
        return False


def _close(store: TrackingStore, run: Run) -> None:
    try:
        store.end_run(run, "KILLED", {tag.REASON: ENDED_UNCLOSED})
    except MlflowException:
        return  # deleted in the meantime
