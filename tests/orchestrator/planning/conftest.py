"""Fixture: the file of a planned study."""

from pathlib import Path

import pytest

from tests.support.planned_study import write_planned_study


@pytest.fixture
def file(tmp_path: Path, small_streets: Path) -> Path:
    return write_planned_study(tmp_path, small_streets)
