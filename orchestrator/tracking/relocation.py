"""Finds the artifacts of a storage directory that was moved, or is mounted at several paths.

MLflow records the absolute path of each artifact folder. If the store is an SQLite file, this
module uses the path relative to the `artifacts/` next to the file instead, for reading and writing.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from mlflow.utils.file_utils import local_file_uri_to_path

from orchestrator.tracking.connection import database_file

ARTIFACTS = "artifacts"


class _RelocatedArtifacts(LocalArtifactRepository):
    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        database = database_file(tracking_uri or mlflow.get_tracking_uri())
        if database is not None:
            artifact_uri = current_uri(artifact_uri, database)
        super().__init__(artifact_uri, tracking_uri, registry_uri)


def follow_moved_storage() -> None:
    """From now on, let MLflow find the artifacts of moved storages in this process."""
    registry = artifact_repository_registry._artifact_repository_registry
    for scheme in ("", "file"):
        registry.register(scheme, _RelocatedArtifacts)
    # MLflow keeps repositories by run, also for the store at the former path.
    _artifact_repos_cache.clear()


# Columns of MLflow's tables with paths of artifacts.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def record_current_paths(database: Path) -> int:
    """Record the current paths of a moved storage's artifacts in its database, for MLflow's own
    pages and programs; return the number of changed entries."""
    changed = 0
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, column in _COLUMNS:
            query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL"
            for (recorded,) in connection.execute(query).fetchall():
                if (current := current_uri(recorded, database)) != recorded:
                    update = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
                    changed += connection.execute(update, (current, recorded)).rowcount
    return changed


def is_missing(artifact_uri: str) -> bool:
    """Whether a local artifact folder does not exist where it was recorded."""
    return _is_local(artifact_uri) and not Path(local_file_uri_to_path(artifact_uri)).exists()


def _is_local(artifact_uri: str) -> bool:
    return "://" not in artifact_uri or artifact_uri.startswith("file:")


def current_uri(artifact_uri: str, database: Path) -> str:
    """Return the location of a local artifact folder that `database` records as `artifact_uri`.

    `/OLD/artifacts/STUDY/...` is found at `/NEW/artifacts/STUDY/...` if that study's folder exists
    next to the database in `/NEW`. Other folders are where they were recorded, and so is one that
    exists there and not in `/NEW`, unless a database in `/OLD` shows that it is another storage's.
    """
    if not _is_local(artifact_uri):
        return artifact_uri
    path = Path(local_file_uri_to_path(artifact_uri))
    directory = database.parent.absolute() / ARTIFACTS
    if path.is_relative_to(directory):
        return artifact_uri
    for index in range(len(path.parts) - 1):
        if path.parts[index] == ARTIFACTS and (directory / path.parts[index + 1]).is_dir():
            moved = directory.joinpath(*path.parts[index + 1 :])
            others_database = Path(*path.parts[:index], database.name)
            if not moved.exists() and path.exists() and not others_database.exists():
                return artifact_uri
            return moved.as_uri()
    return artifact_uri
