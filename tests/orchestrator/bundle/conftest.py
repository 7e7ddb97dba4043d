"""A bundle of a fabricated study."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.bundle.__main__ import main
from tests.support.fabricated_studies import PLAIN, fabricate_study

SEEDS = PLAIN.replace("  training:", "  evaluation: {metrics: [boundary_f]}\n  training:")
SEEDS += "seeds: [0, 1, 2]\n"
SEEDS += "report: {columns: [miou, difference, p, iou/road, boundary_f, difference/boundary_f]}\n"


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory,
    small_streets: Path,
    make_storage: Callable[[Path], Path],
) -> Path:
    """Write a bundle of a study that is gone afterwards; return its directory."""
    directory = tmp_path_factory.mktemp("bundle")
    storage = make_storage(directory)
    file = fabricate_study(directory, small_streets, SEEDS)
    out = tmp_path_factory.mktemp("bundles") / "written"
    assert main([str(file), "--storage", str(storage), "--out", str(out)]) == 0
    shutil.rmtree(directory)
    return out


@pytest.fixture
def bundle(tmp_path: Path, written: Path) -> Path:
    """Return the directory of a copy of the bundle, which a test may change."""
    return shutil.copytree(written, tmp_path / "elsewhere")
