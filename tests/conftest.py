"""Settings and the small data set that all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pipelines.prepare import prepare_streets

# A busy machine is no reason to fail; on CI the same examples come every time.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", settings.get_profile("project"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "project")


@pytest.fixture(scope="session")
def small_streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared `streets` of 14 training and 5 validation images, 64 x 32 pixels."""
    directory = tmp_path_factory.mktemp("data") / "streets"
    prepare_streets(directory, train=14, val=5, size=(32, 64))
    return directory
