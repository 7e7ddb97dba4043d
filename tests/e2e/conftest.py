"""A study that the command trains in seconds, and a source folder to prepare."""

from pathlib import Path

import pytest

from tests.support.camvid_source import CamVidSource
from tests.support.sweep_command import STUDY


@pytest.fixture
def study(tmp_path: Path, small_streets: Path, own_store: Path) -> Path:
    path = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets))
    path.write_text(text.replace("CACHE", str(tmp_path / "cache")))
    return path


@pytest.fixture
def camvid(tmp_path: Path) -> CamVidSource:
    return CamVidSource(tmp_path / "camvid")
