"""A checkpoint folder: retention, atomic writes, and consistency after a kill."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipelines.data.files import PARTIAL
from pipelines.network.checkpoint import CheckpointError, Snapshot, take_snapshot
from pipelines.training.checkpoint_folder import CheckpointFolder, CheckpointWriter, Entry, select


def snapshot(epoch: int, step: int = 0, mious: tuple[float | None, ...] = ()) -> Snapshot:
    """Return a snapshot of a tiny model; mious: one per epoch, None without validation."""
    model = nn.Conv2d(3, 2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = [
        {"epoch": number, **({} if miou is None else {"val/miou": miou})}
        for number, miou in enumerate(mious, start=1)
    ]
    position = {"epoch": epoch, "step": step}
    return take_snapshot(model, optimizer, {"position": position, "history": history})


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in (folder.root / "checkpoints").iterdir())


@given(
    mious=st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=12), keep=st.integers(1, 4)
)
def test_last_and_best_checkpoints_are_kept(mious: list[int | None], keep: int) -> None:
    entries = [
        Entry(Path(str(epoch)), epoch, 0, None if miou is None else miou / 10)
        for epoch, miou in enumerate(mious)
    ]
    selection = select(entries[::-1], keep)
    kept = [entry for entry in entries if entry not in selection.dropped]
    assert selection.last == entries[-1]
    assert selection.last in kept
    # An entry is kept if fewer than `keep` entries are better, or equal and later.
    for entry in entries[:-1]:
        better = [
            other
            for other in entries
            if other.miou is not None
            and entry.miou is not None
            and (other.miou, other.epoch) > (entry.miou, entry.epoch)
        ]
        assert (entry in kept) == (entry.miou is not None and len(better) < keep)
    scored = [entry for entry in entries if entry.miou is not None]
    best = max(scored, key=lambda entry: (entry.miou, entry.epoch), default=None)
    assert selection.best == best


def test_folder_contents_after_a_training(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    assert folder.last() is None
    mious = (0.1, 0.4, None, 0.3, 0.2)
    for epoch in range(1, 6):
        folder.save(snapshot(epoch - 1, 7, mious[: epoch - 1]), epoch - 1, 7)
        folder.save(snapshot(epoch, 0, mious[:epoch]), epoch, 0)
    assert names(folder) == [f"epoch-000{epoch}-step-000000" for epoch in (2, 4, 5)]
    assert (tmp_path / "last").resolve() == folder.last()
    assert (tmp_path / "best").resolve().name == "epoch-0002-step-000000"
    assert json.loads((tmp_path / "last" / "state.json").read_text())["position"]["epoch"] == 5


def test_last_checkpoint_of_an_epoch_has_the_most_steps() -> None:
    entries = [Entry(Path(str(step)), 1, step, None) for step in (7, 9, 8)]
    assert select(entries, keep=1).last.step == 9


def test_incomplete_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    """Another process may be writing it."""
    folder = CheckpointFolder(tmp_path)
    folder.save(snapshot(1, 0, (0.5,)), 1, 0)
    (tmp_path / "checkpoints" / f"epoch-0002-step-000000{PARTIAL}").mkdir()
    last = folder.last()
    assert last is not None
    assert last.name == "epoch-0001-step-000000"


def test_every_checkpoint_has_the_texts_of_the_training(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, texts={"experiment.json": "{}"})
    folder.save(snapshot(1, 0, (0.5,)), 1, 0)
    assert (tmp_path / "last" / "experiment.json").read_text() == "{}"


def test_no_checkpoint_to_keep_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, received 0"):
        CheckpointFolder(tmp_path, keep=0)


def test_folder_is_consistent_after_a_kill_at_any_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill the write before each system call that modifies the disk, one after the other."""

    class Killed(BaseException):
        pass

    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "symlink", "unlink")}
    for allowed_calls in itertools.count():
        root = tmp_path / str(allowed_calls)
        folder = CheckpointFolder(root)
        folder.save(snapshot(1, 0, (0.5,)), 1, 0)
        calls = 0

        def kill_after_limit(name: str):  # type: ignore[no-untyped-def]
            def call(*arguments: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls > allowed_calls:  # noqa: B023
                    raise Killed
                return real[name](*arguments, **options)

            return call

        with monkeypatch.context() as patched:
            for name in real:
                patched.setattr(os, name, kill_after_limit(name))
            try:
                folder.save(snapshot(2, 0, (0.5, 0.6)), 2, 0)
                finished = True
            except Killed:
                finished = False
        reopened = CheckpointFolder(root)
        reopened.tidy()
        last = reopened.last()
        assert last is not None
        assert last.name in ("epoch-0001-step-000000", "epoch-0002-step-000000")
        # Links and checkpoints are consistent, and no partial files are left.
        assert (root / "last").resolve() == last
        assert (root / "best").resolve() == last
        assert names(reopened) == [last.name]
        assert sorted(os.listdir(root)) == ["best", "checkpoints", "last"]
        if finished:
            assert last.name == "epoch-0002-step-000000"
            break
    assert allowed_calls > 5


def test_failed_write_is_raised_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("no directory")
    folder = CheckpointFolder(tmp_path)
    writer = CheckpointWriter()
    writer.start(lambda: folder.save(snapshot(1), 1, 0))
    with pytest.raises(CheckpointError, match=r"epoch-0001-step-000000: cannot be written \("):
        writer.start(lambda: None)
    writer.wait()
    with pytest.raises(CheckpointError, match="cannot be written"), writer:
        writer.start(lambda: folder.save(snapshot(2), 2, 0))


def test_snapshot_is_independent_of_later_steps(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    buffer = optimizer.state[model.weight]["momentum_buffer"].clone()
    history: list[dict[str, float]] = []
    captured = take_snapshot(model, optimizer, {"history": history})
    history.append({"epoch": 1.0})
    optimizer.step()
    assert not torch.equal(model.weight, before["weight"])
    assert all(torch.equal(captured.weights[name], value) for name, value in before.items())
    assert torch.equal(captured.optimizer["weight:momentum_buffer"], buffer)
    assert json.loads(captured.state)["history"] == []


def cut(path: Path) -> None:
    (path / "optimizer.safetensors").write_bytes(b"")


def test_damaged_checkpoints_are_set_aside(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for epoch in (1, 2):
        folder.save(snapshot(epoch, 0, (0.5, 0.4)[:epoch]), epoch, 0)
    first, second = (tmp_path / "checkpoints" / f"epoch-000{epoch}-step-000000" for epoch in (1, 2))
    assert folder.set_aside_damaged(averaged=False) == []
    cut(second)
    (sentence,) = folder.set_aside_damaged(averaged=False)
    assert sentence == (
        f"{second} is damaged (optimizer.safetensors is incomplete); renamed to "
        "damaged-epoch-0002-step-000000"
    )
    folder.tidy()
    assert folder.last() == (tmp_path / "last").resolve() == first
    # The epoch is trained again, and damaged again, with the one before.
    folder.save(snapshot(2, 0, (0.5, 0.4)), 2, 0)
    cut(first)
    cut(second)
    assert len(folder.set_aside_damaged(averaged=False)) == 2
    folder.tidy()
    assert folder.last() is None
    assert os.listdir(tmp_path) == ["checkpoints"]
    assert names(folder) == [
        "damaged-epoch-0001-step-000000",
        "damaged-epoch-0002-step-000000",
        "damaged-epoch-0002-step-000000-2",
    ]
