"""The ledger of studies and trials: MLflow, and nothing beside it.

An MLflow experiment is a study. It has one parent run, the study itself, and one child run for each
trial, found again by the trial's identity. This package is the only place that knows MLflow.
"""

from orchestrator.ledger.records import Record, RunStatus
from orchestrator.ledger.store import Ledger, LedgerError, tracking_uri
from orchestrator.ledger.study_run import StudyRun

__all__ = ["Ledger", "LedgerError", "Record", "RunStatus", "StudyRun", "tracking_uri"]
