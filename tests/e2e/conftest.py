"""A study that the command trains in seconds, a finished run, and a source folder to prepare."""

from pathlib import Path

import pytest

from tests.support.camvid_source import CamVidSource
from tests.support.finished_run import FinishedRun, make_finished_run
from tests.support.sweep_command import STUDY


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, small_streets: Path) -> FinishedRun:
    return make_finished_run(tmp_path_factory.mktemp("storage"), small_streets)


@pytest.fixture
def study(tmp_path: Path, small_streets: Path) -> Path:
    path = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets))
    path.write_text(text.replace("CACHE", str(tmp_path / "cache")))
    return path


@pytest.fixture
def camvid(tmp_path: Path) -> CamVidSource:
    return CamVidSource(tmp_path / "camvid")
