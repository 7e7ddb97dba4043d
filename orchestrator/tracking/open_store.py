"""Opens the tracking store of a storage, one that exists, or a replica of one."""

import shutil
import tempfile
import weakref
from functools import partial
from pathlib import Path

from orchestrator.storage import Storage
from orchestrator.tracking import relocation
from orchestrator.tracking.connection import database_file
from orchestrator.tracking.replica import Replica, ReplicaError, parse_moment
from orchestrator.tracking.store import TrackingError, TrackingStore
from orchestrator.tracking.user_uri import chosen_uri
from pipelines.wording import option

_MLFLOW_SCHEMES = ("http:", "https:", "sqlite:", "postgresql", "mysql", "databricks")


def tracking_uri(storage: Path) -> str:
    """Return `MLFLOW_TRACKING_URI` if set, else the SQLite file in the storage.

    Raises TrackingError if no URI can name that file.
    """
    if uri := chosen_uri():
        return uri
    if "?" in str(storage):
        raise TrackingError(
            f"storage {storage}: MLflow takes the part after '?' for options of the database; "
            "choose a path without '?'"
        )
    return f"sqlite:///{storage / 'mlflow.db'}"


def open_store(storage: Storage) -> TrackingStore:
    """Open the store at `MLFLOW_TRACKING_URI` if set, else the SQLite file in the local storage.

    Raises TrackingError if the storage is a URI and no tracking server is set, or if the store
    cannot be reached.
    """
    return _open(storage, _uri(storage))


def open_present_store(storage: Storage) -> TrackingStore | None:
    """Open the store as `open_store` does, but return None instead of creating a file."""
    uri = _uri(storage)
    file = database_file(uri)
    return None if file is not None and not file.exists() else _open(storage, uri)


def _uri(storage: Storage) -> str:
    uri = tracking_uri(storage.local)
    if storage.is_remote and uri.startswith("sqlite:"):
        raise TrackingError(
            f"{option('storage')} {storage.shared} cannot hold a tracking store; set "
            "MLFLOW_TRACKING_URI to a tracking server's address"
        )
    return uri


def _check_content(file: Path | None) -> None:
    """Raise TrackingError if the store's file was emptied: MLflow would make a new store of it."""
    if file is not None and file.exists() and file.stat().st_size == 0:
        raise TrackingError(
            f"{file} is empty: its studies are lost; restore the file from a copy, or delete it"
        )


def _open(storage: Storage, uri: str) -> TrackingStore:
    _check_content(database_file(uri))
    artifacts = None if uri.startswith("http") else storage.local / relocation.ARTIFACTS
    return TrackingStore(uri, artifacts, locks=storage.local / "locks")


def open_existing_store(storage: Path, tracking: str | None = None) -> TrackingStore:
    """Open the store at `tracking`, else at `MLFLOW_TRACKING_URI`, else the SQLite file in
    `storage`, which must exist.

    tracking: a tracking URI of MLflow, or `s3://BUCKET/tracking/NAME[@TIME]`, a replica.
    Raises TrackingError if there is no such file or the server cannot be reached, ReplicaError if a
    replica cannot be read.
    """
    if tracking and not tracking.startswith(_MLFLOW_SCHEMES):
        return _open_replica(tracking)
    uri = tracking or tracking_uri(storage)
    file = database_file(uri)
    if file is not None and not file.exists():
        raise TrackingError(
            f"no tracking store at {file}; run a study first, pass the studies' storage with "
            f"{option('storage')}, or set MLFLOW_TRACKING_URI to a tracking server's address"
        )
    _check_content(file)
    return TrackingStore(uri, None)


def _open_replica(tracking: str) -> TrackingStore:
    """Restore a replica into a temporary file and open that, to be read only."""
    uri, moment = parse_moment(tracking)
    if "://" not in uri and not Path(uri).expanduser().exists():
        raise ReplicaError(
            f"{option('tracking')} {tracking}: no such directory; use a tracking URI such as "
            "http://HOST:PORT or sqlite:///FILE, or a replica, s3://BUCKET/tracking/NAME or a "
            "directory"
        )
    directory = tempfile.mkdtemp(prefix="replica-")
    file = Path(directory) / "mlflow.db"
    remove = partial(shutil.rmtree, directory, ignore_errors=True)
    try:
        if not Replica(uri).restore(file, moment):
            raise ReplicaError(
                f"{option('tracking')} {tracking}: there is no replica, or none that old"
            )
        store = TrackingStore(f"sqlite:///{file}", None, replica=tracking)
    except BaseException:
        remove()
        raise
    weakref.finalize(store, remove)
    return store
