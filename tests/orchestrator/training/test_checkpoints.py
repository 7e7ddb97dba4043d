"""Checkpoints of a trial in its storage, their list, and what is damaged of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from orchestrator.training.checkpoints import TrialCheckpoints, checkpoint_config, checkpoint_uri
from orchestrator.training.job import Job
from orchestrator.training.worker import SCORE
from pipelines.network.checkpoint import take_snapshot
from tests.support.jobs import cpu_job

# From Ray's own classes.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return cpu_job(run_name="run", keep_checkpoints=2, storage=str(tmp_path / "storage"))


def add(checkpoints: TrialCheckpoints, directory: Path, epoch: int, score: float) -> None:
    """Store the checkpoint of a tiny network at the end of an epoch."""
    source = directory / f"epoch-{epoch}"
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = [{"epoch": epoch, "val/miou": score}]
    state = {"position": {"epoch": epoch, "step": 0}, "history": history}
    take_snapshot(model, optimizer, state).write(source)
    checkpoints.add(source, {"epoch": epoch, SCORE: score})


def epoch_of(path: str | Path) -> int:
    return int(json.loads(Path(path, "state.json").read_text())["position"]["epoch"])


def stored(job: Job) -> dict[int, Path]:
    """Return the folders of the checkpoints in the storage, by epoch."""
    folders = Path(job.storage, job.run_name).glob("checkpoint_*/")
    return {epoch_of(folder): folder for folder in folders}


def last_and_best(checkpoints: TrialCheckpoints, job: Job) -> tuple[int, int]:
    last = checkpoints.last()
    assert last is not None
    best = checkpoints.best()
    return epoch_of(checkpoint_uri(last, job)), epoch_of(checkpoint_uri(best, job))


def test_last_and_best_checkpoints_are_kept_and_found_again(job: Job, tmp_path: Path) -> None:
    checkpoints = TrialCheckpoints(job)
    assert checkpoints.last() is None
    for epoch, score in enumerate((0.1, 0.5, 0.3, 0.4, 0.2), start=1):
        add(checkpoints, tmp_path, epoch, score)
    for reader in (checkpoints, TrialCheckpoints(job)):
        assert last_and_best(reader, job) == (5, 2)
        assert not reader.notice
    assert sorted(stored(job)) == [2, 4, 5]


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


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, shutil.rmtree], ids=["cut", "deleted"])
@pytest.mark.parametrize(
    ("damaged", "left"), [([5], (4, 2)), ([2], (5, 4)), ([4, 5], (2, 2)), ([2, 5], (4, 4))]
)
def test_damaged_checkpoints_are_passed_over(
    damage: Callable[[Path], None],
    damaged: list[int],
    left: tuple[int, int],
    job: Job,
    tmp_path: Path,
) -> None:
    checkpoints = TrialCheckpoints(job)
    for epoch, score in enumerate((0.1, 0.5, 0.3, 0.4, 0.2), start=1):
        add(checkpoints, tmp_path, epoch, score)
    folders = stored(job)
    for epoch in damaged:
        damage(folders[epoch])
    reader = TrialCheckpoints(job)
    assert last_and_best(reader, job) == left
    assert all(folders[epoch].name in reader.notice for epoch in damaged)
    assert reader.notice.endswith(
        f"it continues from {folders[left[0]].name}, after epoch {left[0]}"
    )
    # What is damaged is said once, and is neither listed nor deleted.
    again = TrialCheckpoints(job)
    assert last_and_best(again, job) == left
    assert not again.notice
    add(again, tmp_path / "again", 6, 0.6)
    assert last_and_best(TrialCheckpoints(job), job) == (6, 6)
    assert all(folders[epoch].exists() == (damage is cut) for epoch in damaged)


def test_training_starts_anew_if_no_checkpoint_is_whole(job: Job, tmp_path: Path) -> None:
    add(TrialCheckpoints(job), tmp_path, 1, 0.5)
    cut(stored(job)[1])
    reader = TrialCheckpoints(job)
    assert reader.last() is None
    assert "(model.safetensors is incomplete); it trains from the start" in reader.notice
    assert TrialCheckpoints(job).last() is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "missing"),
        (lambda file: file.write_bytes(b""), "incomplete"),
        (lambda file: file.write_text("{}"), "incomplete"),
    ],
    ids=["missing", "empty", "other"],
)
def test_lost_list_of_checkpoints_is_made_anew(
    damage: Callable[[Path], None], words: str, job: Job, tmp_path: Path
) -> None:
    checkpoints = TrialCheckpoints(job)
    for epoch, score in enumerate((0.1, 0.5, 0.3, 0.4, 0.2), start=1):
        add(checkpoints, tmp_path, epoch, score)
    (list_file,) = Path(job.storage, job.run_name).glob("*.json")
    damage(list_file)
    (list_file.parent / "checkpoint_being_written").mkdir()
    reader = TrialCheckpoints(job)
    assert last_and_best(reader, job) == (5, 2)
    assert f"{list_file.name} (it is {words}); it continues from " in reader.notice
    assert not TrialCheckpoints(job).notice


def test_kill_while_the_list_is_made_anew_loses_nothing(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = TrialCheckpoints(job)
    for epoch, score in enumerate((0.5, 0.4, 0.3), start=1):
        add(checkpoints, tmp_path, epoch, score)
    cut(stored(job)[3])

    def end(checkpoints: TrialCheckpoints) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrialCheckpoints, "_save_state", end)
        with pytest.raises(KeyboardInterrupt):
            TrialCheckpoints(job)
    assert last_and_best(TrialCheckpoints(job), job) == (2, 1)


def test_ray_train_continues_from_the_last_whole_one(job: Job, tmp_path: Path) -> None:
    checkpoints = TrialCheckpoints(job)
    for epoch in (1, 2):
        add(checkpoints, tmp_path, epoch, 0.5)
    cut(stored(job)[2])
    TrialCheckpoints(job)
    storage = StorageContext(job.storage, experiment_dir_name=job.run_name)
    result = CheckpointManager(checkpoint_config(job), storage).latest_checkpoint_result
    assert result is not None
    assert epoch_of(result.checkpoint.path) == 1


def test_trial_that_was_killed_in_its_first_checkpoint_has_none(job: Job) -> None:
    Path(job.storage, job.run_name, "checkpoint_being_written").mkdir(parents=True)
    reader = TrialCheckpoints(job)
    assert reader.last() is None
    assert not reader.notice
