"""Checkpoint files: what they hold, and what is said of files that do not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipelines.network.checkpoint import (
    CheckpointError,
    load_weights,
    read_history,
    read_state,
    restore_checkpoint,
    take_snapshot,
)


def network(value: float, width: int = 2) -> nn.Module:
    """Return a layer whose parameters all have one value."""
    layer = nn.Linear(3, width)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def values(model: nn.Module) -> set[float]:
    return {value for tensor in model.state_dict().values() for value in tensor.flatten().tolist()}


def write(directory: Path, model: nn.Module, average: nn.Module | None = None) -> Path:
    """Write a checkpoint at the end of an epoch."""
    state = {"position": {"epoch": 1}, "history": [{"epoch": 1, "val/miou": 0.5}]}
    take_snapshot(model, sgd(model), state, average).write(directory)
    return directory


def test_trained_weights_and_their_average_are_kept_apart(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", network(1.0), network(2.0))
    model, average = network(0.0), network(0.0)
    state = restore_checkpoint(checkpoint, model, sgd(model), average)
    assert (values(model), values(average)) == ({1.0}, {2.0})
    assert state == {"position": {"epoch": 1}, "history": [{"epoch": 1, "val/miou": 0.5}]}
    # The average is what is scored and published.
    scored = network(0.0)
    load_weights(checkpoint, scored)
    assert values(scored) == {2.0}


def test_checkpoint_without_an_average_has_the_trained_weights_once(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", network(1.0))
    names = {path.name for path in checkpoint.iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "state.json"}
    model = network(0.0)
    restore_checkpoint(checkpoint, model, sgd(model))
    assert values(model) == {1.0}
    with pytest.raises(CheckpointError, match=r"not a readable checkpoint .*trained.safetensors"):
        restore_checkpoint(checkpoint, model, sgd(model), network(0.0))


def test_additional_texts_and_states_are_read_back(tmp_path: Path) -> None:
    model = network(1.0)
    snapshot = take_snapshot(model, sgd(model), {"history": [{"epoch": 1.0}]})
    snapshot.write(tmp_path / "checkpoint", {"experiment.json": "{}"})
    assert (tmp_path / "checkpoint" / "experiment.json").read_text() == "{}"
    assert read_history(tmp_path / "checkpoint") == [{"epoch": 1.0}]
    (tmp_path / "checkpoint" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"not a readable checkpoint \(no 'history'\)"):
        read_history(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_state(tmp_path / "checkpoint")


@pytest.mark.parametrize("misfit", ["model", "average"])
def test_weights_of_another_shape_are_listed(tmp_path: Path, misfit: str) -> None:
    checkpoint = write(tmp_path / "checkpoint", network(1.0), network(2.0))
    model, average = (network(0.0, 4 if name == misfit else 2) for name in ("model", "average"))
    message = r"bias: model \(4,\), checkpoint \(2,\); weight: model \(4, 3\), checkpoint \(2, 3\)$"
    with pytest.raises(CheckpointError, match=message):
        restore_checkpoint(checkpoint, model, sgd(model), average)


def test_long_lists_of_differences_are_cut(tmp_path: Path) -> None:
    layers = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    write(tmp_path / "checkpoint", layers)
    other = nn.Sequential(*(nn.Linear(1, 2) for _ in range(1)))
    with pytest.raises(CheckpointError) as caught:
        load_weights(tmp_path / "checkpoint", other)
    message = str(caught.value)
    assert message.count(", checkpoint ") == 5
    assert "1.bias: model has none, checkpoint (1,)" in message
    assert message.endswith(" and 3 more")


def test_weights_of_channels_last_networks_are_stored_by_rows(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    write(tmp_path / "checkpoint", model)
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")["weight"]
    assert torch.equal(stored, model.weight)
    assert stored.is_contiguous()
