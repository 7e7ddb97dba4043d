"""Settings and small data sets shared by all tests."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# On two cores, two processes of two threads each block each other, on small tensors forever.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's default of 15 lets the other tests keep the processors from its workers.
os.environ.setdefault("RAY_worker_niceness", "0")

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from PIL import Image

from pipelines.preparation.embedded import prepare_streets
from pipelines.prepare import main as prepare

if TYPE_CHECKING:
    from tests.support.finished_run import FinishedRun

# A busy machine must not fail a test; CI runs the same examples every time.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", settings.get_profile("project"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "project")


TESTS = Path(__file__).parent
SERVERS = {"gcs_server", "raylet", "moto.server", "litestream", "sshd"}
SERVERS |= {"orchestrator.sweep", "orchestrator.server"}


# A tracking store and a simulated AWS account take seconds.
SLOW_FIXTURES = {"empty_store", "aws_config"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with slow fixtures, before `-m` selects. Run files with slow tests first, so that
    parallel runs end with short files."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def no_environment() -> Iterator[None]:
    """Unset the variables of the user's shell that select a tracking store or a cluster."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def no_servers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test outside tests/e2e that starts Ray or another server as a process."""
    if request.path.is_relative_to(TESTS / "e2e"):
        return
    start = subprocess.Popen.__init__

    def refuse(process: Any, args: Any, *others: Any, **options: Any) -> None:
        words = [args] if isinstance(args, str | bytes | Path) else args
        started = SERVERS & {os.path.basename(os.fsdecode(word)) for word in words}
        assert not started, f"{', '.join(started)} is started; only tests in tests/e2e may do so"
        start(process, args, *others, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that writes an importable module of the user and returns its file."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str) -> Path:
        file = tmp_path / f"{name}.py"
        file.write_text(source)
        return file

    return write


@pytest.fixture(scope="session")
def small_streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared `streets` data set: 14 training and 5 validation images of 32 x 64 pixels."""
    directory = tmp_path_factory.mktemp("data") / "streets"
    prepare_streets(directory, train=14, val=5, size=(32, 64))
    return directory


@pytest.fixture(scope="session")
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set prepared from the Cityscapes layout: 4 train, 2 val and 2 test images."""
    source = tmp_path_factory.mktemp("cityscapes")
    rng = np.random.default_rng(0)
    for split, city, count in (("train", "aachen", 4), ("val", "bonn", 2), ("test", "berlin", 2)):
        for folder in ("leftImg8bit", "gtFine"):
            (source / folder / split / city).mkdir(parents=True)
        for index in range(count):
            stem = f"{city}_{index:06d}_000019"
            pixels = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)
            labels = rng.integers(0, 34, (32, 64), dtype=np.uint8)
            image = source / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
            Image.fromarray(pixels).save(image)
            if split != "test":
                label = source / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"
                Image.fromarray(labels).save(label)
    prepared = source / "prepared"
    arguments = ["cityscapes", "--source", str(source), "--destination", str(prepared)]
    assert prepare(arguments) == 0
    return prepared


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking store, created once for all processes because MLflow takes seconds."""
    from orchestrator.tracking.store import TrackingStore

    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    file = directory / "empty" / "mlflow.db"
    with FileLock(directory / "empty.lock"):
        if not file.exists():
            new = tmp_path_factory.mktemp("store") / "mlflow.db"
            TrackingStore(f"sqlite:///{new}", None)
            file.parent.mkdir()
            shutil.copy(new, file)
    return file


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, small_streets: Path, empty_store: Path
) -> "FinishedRun":
    """A finished run shared by all tests of a process; tests must not modify it."""
    from tests.support.finished_run import make_finished_run

    storage = tmp_path_factory.mktemp("storage")
    shutil.copy(empty_store, storage)
    return make_finished_run(storage, small_streets)


@pytest.fixture(scope="session")
def make_storage(empty_store: Path) -> Callable[[Path], Path]:
    """Return a function that makes `storage/` with an empty tracking store in a directory and
    returns its path."""

    def make(directory: Path) -> Path:
        storage = directory / "storage"
        storage.mkdir()
        shutil.copy(empty_store, storage)
        return storage

    return make


@pytest.fixture
def own_store(tmp_path: Path, make_storage: Callable[[Path], Path]) -> Path:
    """Make `storage/` with an empty tracking store in `tmp_path`; return its path."""
    return make_storage(tmp_path)
