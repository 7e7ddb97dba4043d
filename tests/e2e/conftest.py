"""Fixtures: a study that trains in seconds, and a source folder of a data set to prepare."""

from pathlib import Path

import pytest

from tests.support.camvid_source import CamVidSource
from tests.support.sweep_command import PACED_STUDY, STUDY, set_pace


@pytest.fixture
def study(tmp_path: Path, small_streets: Path, own_store: Path) -> Path:
    """Return the path of a study file that `orchestrator.sweep` trains in seconds, with one worker
    per trial."""
    path = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets)).replace("workers: 2", "workers: 1")
    path.write_text(text.replace("CACHE", str(tmp_path / "cache")))
    return path


@pytest.fixture
def group_study(study: Path) -> Path:
    """Return the path of the same study file, with two workers per trial."""
    study.write_text(study.read_text().replace("workers: 1", "workers: 2"))
    return study


@pytest.fixture
def paced_study(tmp_path: Path, small_streets: Path, own_store: Path) -> Path:
    """Return the path of a study file with one trial, of which each epoch takes a second."""
    path = tmp_path / "study.yaml"
    text = PACED_STUDY.replace("DATASET", str(small_streets))
    text = text.replace("PACE", str(tmp_path / "pace"))
    path.write_text(text.replace("CACHE", str(tmp_path / "cache")))
    set_pace(path, 0.5)
    return path


@pytest.fixture
def camvid(tmp_path: Path) -> CamVidSource:
    """Return a small CamVid source folder."""
    return CamVidSource(tmp_path / "camvid")
