"""The ledger of studies and trials: MLflow, and nothing beside it.

An MLflow experiment is a study. It has one parent run, the study itself, and one child run for each
trial, found again by the trial's identity. This package is the only place that knows MLflow.
"""

from orchestrator.ledger.links import keep_links
from orchestrator.ledger.notes import trial_note
from orchestrator.ledger.overview import StudyView, ask_to_stop, close_abandoned, studies
from orchestrator.ledger.records import Record, RunStatus
from orchestrator.ledger.session import StudyAtWorkError, StudyTakenError
from orchestrator.ledger.store import Ledger, LedgerError, tracking_uri
from orchestrator.ledger.study_run import StudyRun
from orchestrator.ledger.writer import BackgroundWriter

__all__ = [
    "BackgroundWriter",
    "Ledger",
    "LedgerError",
    "Record",
    "RunStatus",
    "StudyAtWorkError",
    "StudyRun",
    "StudyTakenError",
    "StudyView",
    "ask_to_stop",
    "close_abandoned",
    "keep_links",
    "studies",
    "tracking_uri",
    "trial_note",
]
