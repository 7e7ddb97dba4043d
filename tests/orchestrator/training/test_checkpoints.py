"""Checkpoints of a trial in its storage, and their list."""

from dataclasses import replace
from pathlib import Path

import pytest
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from orchestrator.training.checkpoints import TrialCheckpoints, checkpoint_config, checkpoint_uri
from orchestrator.training.job import Job
from orchestrator.training.worker import SCORE
from tests.support.jobs import cpu_job

# From Ray's own classes.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return cpu_job(run_name="run", keep_checkpoints=2, storage=str(tmp_path / "storage"))


def add(checkpoints: TrialCheckpoints, directory: Path, epoch: int, score: float) -> None:
    """Store a checkpoint that holds the number of its epoch."""
    source = directory / f"epoch-{epoch}"
    source.mkdir()
    (source / "epoch").write_text(str(epoch))
    checkpoints.add(source, {"epoch": epoch, SCORE: score})


def epoch_of(path: str) -> int:
    return int(Path(path, "epoch").read_text())


def test_last_and_best_checkpoints_are_kept_and_found_again(job: Job, tmp_path: Path) -> None:
    checkpoints = TrialCheckpoints(job)
    assert checkpoints.last() is None
    for epoch, score in enumerate((0.1, 0.5, 0.3, 0.4, 0.2), start=1):
        add(checkpoints, tmp_path, epoch, score)
    for reader in (checkpoints, TrialCheckpoints(job)):
        last = reader.last()
        assert last is not None
        assert epoch_of(checkpoint_uri(last, job)) == 5
        assert epoch_of(checkpoint_uri(reader.best(), job)) == 2
    stored = Path(job.storage, job.run_name).glob("checkpoint_*/epoch")
    assert sorted(int(file.read_text()) for file in stored) == [2, 4, 5]


def test_ray_train_continues_from_them(job: Job, tmp_path: Path) -> None:
    add(TrialCheckpoints(job), tmp_path, 1, 0.5)
    storage = StorageContext(job.storage, experiment_dir_name=job.run_name)
    result = CheckpointManager(checkpoint_config(job), storage).latest_checkpoint_result
    assert result is not None
    assert epoch_of(result.checkpoint.path) == 1


def test_list_of_checkpoints_survives_a_kill_while_it_is_written(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(TrialCheckpoints(job), tmp_path, 1, 0.5)
    killed = TrialCheckpoints(job)

    def end() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(killed, "_save_state", end)  # called when the new list has been opened
    with pytest.raises(KeyboardInterrupt):
        add(killed, tmp_path, 2, 0.6)
    last = TrialCheckpoints(job).last()
    assert last is not None
    assert epoch_of(checkpoint_uri(last, job)) == 1


def test_trials_of_one_storage_have_their_own_lists(job: Job, tmp_path: Path) -> None:
    add(TrialCheckpoints(job), tmp_path, 1, 0.5)
    assert TrialCheckpoints(replace(job, run_name="other")).last() is None
