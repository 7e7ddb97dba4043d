"""The studies of a tracking store, by the options of `orchestrator.studies`."""

import argparse
from pathlib import Path

from orchestrator.storage import Storage
from orchestrator.study.validation import suggestion
from orchestrator.tracking.queries import StudySummary, take_snapshot
from orchestrator.tracking.store import TrackingError, TrackingStore, open_existing_store
from pipelines.data.storage import check_no_secret


def local_storage(options: argparse.Namespace) -> Path:
    """Return the local directory of `--storage`."""
    return Storage.parse(options.storage).local


def open_store(options: argparse.Namespace) -> TrackingStore:
    """Open the tracking store. Raises TrackingError."""
    check_no_secret(options.storage)
    return open_existing_store(local_storage(options), getattr(options, "tracking", None))


def find_study(store: TrackingStore, name: str) -> StudySummary:
    """Return the study called `name`. Raises TrackingError, which suggests another name."""
    for study in take_snapshot(store, name).studies:
        return study
    names = [study.name for study in take_snapshot(store).studies]
    raise TrackingError(f"no study is called {name!r}; {suggestion(name, names)}")
