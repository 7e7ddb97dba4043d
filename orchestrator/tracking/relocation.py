"""Finds the artifacts of a storage directory that was moved, or is mounted at several paths.

MLflow records the absolute path of each artifact folder. Below the storage of an open store, the
folder's path relative to `artifacts/` counts instead, for reading and for writing.
"""

from pathlib import Path

from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path

ARTIFACTS = "artifacts"

_directories: list[Path] = []  # of the open stores, the last one first


class _RelocatedArtifacts(LocalArtifactRepository):
    def __init__(self, artifact_uri: str, *arguments: str | None, **options: str | None) -> None:
        super().__init__(current_uri(artifact_uri), *arguments, **options)


def register(directory: Path) -> None:
    """Find artifacts in `directory`, the `artifacts` folder of a storage, from now on."""
    if directory in _directories:
        _directories.remove(directory)
    _directories.insert(0, directory)
    registry = artifact_repository_registry._artifact_repository_registry
    for scheme in ("", "file"):
        registry.register(scheme, _RelocatedArtifacts)


def current_uri(artifact_uri: str) -> str:
    """Return the location of a local artifact folder that was recorded as `artifact_uri`.

    `/OLD/artifacts/STUDY/...` is found at `/NEW/artifacts/STUDY/...` if that study's folder exists
    in an open store's `artifacts`; other folders are where they were recorded.
    """
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
