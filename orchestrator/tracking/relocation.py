"""Finds the artifacts of a storage directory that was moved, or is mounted at several paths.

MLflow records the absolute path of each artifact folder. Below the storage of an open store, the
folder's path relative to `artifacts/` counts instead, for reading and for writing.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path

ARTIFACTS = "artifacts"

_directories: list[Path] = []  # of the open stores, the last one first


class _RelocatedArtifacts(LocalArtifactRepository):
    def __init__(self, artifact_uri: str, *arguments: str | None, **options: str | None) -> None:
        super().__init__(current_uri(artifact_uri), *arguments, **options)

    @property
    def artifact_dir(self) -> str:
        """The folder's current path, because MLflow keeps repositories of runs."""
        return str(local_file_uri_to_path(current_uri(self.artifact_uri)))


def register(directory: Path) -> None:
    """Find artifacts in `directory`, the `artifacts` folder of a storage, from now on."""
    if directory in _directories:
        _directories.remove(directory)
    _directories.insert(0, directory)
    registry = artifact_repository_registry._artifact_repository_registry
    for scheme in ("", "file"):
        registry.register(scheme, _RelocatedArtifacts)


# Columns of MLflow's tables with paths of artifacts.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def record_current_paths(database: Path) -> int:
    """Record the current paths of a moved storage's artifacts in its database, for MLflow's own
    pages and programs; return the number of changed entries. The store must be open."""
    changed = 0
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, column in _COLUMNS:
            query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL"
            for (recorded,) in connection.execute(query).fetchall():
                if (current := current_uri(recorded)) != recorded:
                    update = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
                    changed += connection.execute(update, (current, recorded)).rowcount
    return changed


def current_uri(artifact_uri: str) -> str:
    """Return the location of a local artifact folder that was recorded as `artifact_uri`.

    `/OLD/artifacts/STUDY/...` is found at `/NEW/artifacts/STUDY/...` if that study's folder exists
    in an open store's `artifacts`; other folders are where they were recorded.
    """
    if "://" in artifact_uri and not artifact_uri.startswith("file:"):
        return artifact_uri
    path = Path(local_file_uri_to_path(artifact_uri))
    existing = [directory for directory in _directories if directory.is_dir()]
    if any(path.is_relative_to(directory) for directory in existing):
        return artifact_uri
    for index in range(len(path.parts) - 1):
        if path.parts[index] != ARTIFACTS:
            continue
        study = path.parts[index + 1]
        for directory in existing:
            if (directory / study).is_dir():
                return directory.joinpath(*path.parts[index + 1 :]).as_uri()
    return artifact_uri
