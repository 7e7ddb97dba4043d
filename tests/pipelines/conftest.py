"""A small prepared data set shared by the session, and a CamVid source folder per test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.preparation.embedded import prepare_streets
from tests.support.camvid_source import CamVidSource


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """11 training and 3 validation images of 32 x 64 pixels."""
    directory = tmp_path_factory.mktemp("data") / "streets"
    prepare_streets(directory, train=11, val=3, size=(32, 64))
    return open_dataset(directory)


@pytest.fixture
def camvid(tmp_path: Path) -> CamVidSource:
    return CamVidSource(tmp_path / "camvid")
