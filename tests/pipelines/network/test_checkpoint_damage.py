"""Damage to the files of a checkpoint is found without reading their tensors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipelines.data.storage import locate
from pipelines.network.checkpoint import CheckpointError, restore_checkpoint, take_snapshot
from pipelines.network.checkpoint_damage import damage_of

FILES = ("model.safetensors", "optimizer.safetensors", "trained.safetensors", "state.json")


def parts() -> tuple[nn.Module, torch.optim.Optimizer, nn.Module]:
    """Return a network, its optimizer and a network for its average."""
    model = nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), nn.Linear(3, 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with weights, their average and momentum."""
    directory = tmp_path_factory.mktemp("damage") / "checkpoint"
    model, optimizer, average = parts()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"position": {"epoch": 1}, "history": [{"epoch": 1}]}
    take_snapshot(model, optimizer, state, average).write(directory)
    return directory


def test_whole_checkpoint_has_no_damage(checkpoint: Path) -> None:
    assert damage_of(locate(checkpoint), averaged=True) == ""
    restore_checkpoint(checkpoint, *parts())


@given(name=st.sampled_from(FILES), share=st.floats(0, 1, exclude_max=True))
def test_file_cut_anywhere_is_named(checkpoint: Path, name: str, share: float) -> None:
    file = checkpoint / name
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    try:
        assert damage_of(locate(checkpoint), averaged=True) == f"{name} is incomplete"
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            restore_checkpoint(checkpoint, *parts())
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("change", "damage"),
    [
        (lambda file: file.unlink(), "is missing"),
        # As after a power loss, on some file systems.
        (lambda file: file.write_bytes(bytes(len(file.read_bytes()))), "is incomplete"),
        (lambda file: file.write_text("[]"), "is incomplete"),
    ],
    ids=["missing", "zeros", "other"],
)
def test_missing_or_overwritten_file_is_named(
    checkpoint: Path, name: str, change: Callable[[Path], None], damage: str
) -> None:
    content = (checkpoint / name).read_bytes()
    change(checkpoint / name)
    try:
        assert damage_of(locate(checkpoint), averaged=True) == f"{name} {damage}"
    finally:
        (checkpoint / name).write_bytes(content)


def test_weights_of_an_average_are_expected_only_where_there_is_one(tmp_path: Path) -> None:
    model, optimizer, _ = parts()
    take_snapshot(model, optimizer, {"position": {}, "history": []}).write(tmp_path / "plain")
    assert damage_of(locate(tmp_path / "plain"), averaged=False) == ""
    assert damage_of(locate(tmp_path / "plain"), averaged=True) == "trained.safetensors is missing"
