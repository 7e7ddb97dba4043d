"""Checkpoint files: everything needed to resume a training exactly.

A checkpoint is a directory with `model.safetensors`, `optimizer.safetensors` and `state.json`, and
`trained.safetensors` if `model.safetensors` is an average of the trained weights. It holds no
pickled code. All random numbers are keyed by (seed, epoch, sample), so no generator state is saved.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.data.files import atomic_directory
from pipelines.errors import UserError
from pipelines.network.file_names import OPTIMIZER_FILE, STATE_FILE, TRAINED_FILE, WEIGHTS_FILE
from pipelines.network.optimizer_state import (
    OptimizerState,
    OptimizerStateError,
    load_optimizer_state,
    optimizer_state,
)

_OPTIMIZER = "optimizer"  # key of the optimizer's numbers in the state


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be read or written, or does not fit the model or experiment."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a training's state; the training can continue while it is written.

    weights: that are scored, on the CPU, row-major, by the names of the model's state.
    optimizer: tensors of the optimizer's state, likewise; see `OptimizerState`.
    state: lineage, position, history and the optimizer's numbers, as JSON text.
    trained: weights to continue from, if `weights` is their average.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: str
    trained: dict[str, Tensor] | None = None

    def write(self, directory: Path, texts: Mapping[str, str] | None = None) -> None:
        """Write the checkpoint `directory` atomically, and wait until it is on disk.

        texts: additional text files, by name.

        Raises:
            CheckpointError: writing fails, for example because the disk is full.
        """
        try:
            with atomic_directory(directory) as partial:
                self.write_into(partial)
                for name, text in (texts or {}).items():
                    (partial / name).write_text(text, encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{directory}: cannot be written ({error})") from error

    def write_into(self, directory: Path) -> None:
        """Write the files into `directory`, which is created if it is missing."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file(self.weights, directory / WEIGHTS_FILE)
        save_file(self.optimizer, directory / OPTIMIZER_FILE)
        if self.trained is not None:
            save_file(self.trained, directory / TRAINED_FILE)
        (directory / STATE_FILE).write_text(self.state)


def take_snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    average: nn.Module | None = None,
) -> Snapshot:
    """Copy the current weights, the optimizer's state and the JSON-serializable `state`.

    average: the network with averaged weights, if these are scored.

    Raises:
        CheckpointError: the optimizer keeps something that a checkpoint cannot hold.
    """
    try:
        kept = optimizer_state(model, optimizer)
    except OptimizerStateError as error:
        raise CheckpointError(f"no checkpoint can be written: {error}") from error
    weights = _copy(model.state_dict())
    text = json.dumps({**state, _OPTIMIZER: kept.values}, indent=1)
    if average is None:
        return Snapshot(weights, _copy(kept.tensors), text)
    return Snapshot(_copy(average.state_dict()), _copy(kept.tensors), text, trained=weights)


def restore_checkpoint(
    directory: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None = None,
) -> dict[str, Any]:
    """Load a checkpoint into `model`, `optimizer` and `average`; return its state.

    Raises:
        CheckpointError: a file is missing or damaged, or names or shapes differ from the model's;
            the message lists the differences.
    """
    try:
        weights = load_file(directory / WEIGHTS_FILE)
        trained = weights if average is None else load_file(directory / TRAINED_FILE)
        state = json.loads((directory / STATE_FILE).read_text())
        kept = OptimizerState(load_file(directory / OPTIMIZER_FILE), state.pop(_OPTIMIZER))
    except Exception as error:
        raise CheckpointError(f"{directory}: not a readable checkpoint ({error})") from error
    _check_fit(directory, model, trained)
    model.load_state_dict(trained)
    if average is not None:
        _check_fit(directory, average, weights)
        average.load_state_dict(weights)
    try:
        load_optimizer_state(model, optimizer, kept)
    except (OptimizerStateError, ValueError, IndexError) as error:
        raise CheckpointError(f"{directory}: does not fit this optimizer: {error}") from error
    return dict(state)


def read_state(directory: Path) -> dict[str, Any]:
    """Return the state of a checkpoint: its lineage, position and history.

    Raises:
        CheckpointError: the state cannot be read.
    """
    try:
        return dict(json.loads((directory / STATE_FILE).read_text()))
    except Exception as error:
        raise CheckpointError(f"{directory}: not a readable checkpoint ({error})") from error


def read_history(directory: Path) -> list[dict[str, float]]:
    """Return the metrics of every epoch up to a checkpoint, first epoch first.

    Raises:
        CheckpointError: the history cannot be read.
    """
    try:
        return list(read_state(directory)["history"])
    except KeyError as error:
        raise CheckpointError(f"{directory}: not a readable checkpoint (no {error})") from error


def load_weights(directory: Path, model: nn.Module) -> None:
    """Load only the weights of a checkpoint into `model`.

    Raises:
        CheckpointError: the weights cannot be read or do not fit the model.
    """
    try:
        weights = load_file(directory / WEIGHTS_FILE)
    except Exception as error:
        raise CheckpointError(f"{directory}: no readable weights ({error})") from error
    _check_fit(directory, model, weights)
    model.load_state_dict(weights)


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors requires row-major tensors, but the model may be channels-last.
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }


def _check_fit(directory: Path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differences = [
        f"{name}: model {expected.get(name, 'has none')}, checkpoint {stored.get(name, 'has none')}"
        for name in sorted(expected.keys() | stored.keys())
        if expected.get(name) != stored.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:5])
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError(f"{directory}: does not fit this model: {shown}{more}")
