"""One training's state on disk: what is needed to go on as if nothing had happened.

A checkpoint is a directory of `model.safetensors`, `momentum.safetensors` and `state.json`: no
pickled code. Everything random is keyed by (seed, epoch, sample), so no generator is saved.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.data.files import PARTIAL, sync_to_disk
from pipelines.errors import UserError

WEIGHTS_FILE = "model.safetensors"

MOMENTUM_FILE = "momentum.safetensors"

STATE_FILE = "state.json"


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be read or belongs to another model; the message names both."""


@dataclass(frozen=True)
class Snapshot:
    """A training's state at one moment, in memory of its own: the training may go on meanwhile.

    weights, momentum: on the CPU, row-major, by the names of the model's state and parameters.
    state: position and history, as JSON text.
    """

    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    state: str

    def write(self, directory: Path, texts: Mapping[str, str] | None = None) -> None:
        """Write the checkpoint `directory`, whole or not at all: beside it first, on the disk for
        certain, then moved into place. texts: further files of it, by name. Raises CheckpointError
        where that fails, as on a full disk."""
        partial = directory.with_name(directory.name + PARTIAL)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            self.write_into(partial)
            for name, text in (texts or {}).items():
                (partial / name).write_text(text, encoding="utf-8")
            sync_to_disk([*partial.iterdir(), partial])
            partial.rename(directory)
            sync_to_disk([directory.parent])
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{directory}: cannot be written ({error})") from error

    def write_into(self, directory: Path) -> None:
        """Write the files alone; `directory` is made where it is missing."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file(self.weights, directory / WEIGHTS_FILE)
        save_file(self.momentum, directory / MOMENTUM_FILE)
        (directory / STATE_FILE).write_text(self.state)


def take_snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Snapshot:
    """Copy weights, momentum buffers and the JSON-serialisable `state` as they are now."""
    momentum = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }
    return Snapshot(_copied(model.state_dict()), _copied(momentum), json.dumps(state, indent=1))


def restore_checkpoint(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load what a snapshot wrote into `model` and `optimizer`; return its `state`.

    Raises CheckpointError where a file is missing or damaged, or where names or shapes differ from
    the model's, with the differences.
    """
    try:
        weights = load_file(directory / WEIGHTS_FILE)
        momentum = load_file(directory / MOMENTUM_FILE)
        state = json.loads((directory / STATE_FILE).read_text())
    except Exception as error:
        raise CheckpointError(f"{directory}: not a readable checkpoint ({error})") from error
    _check_fit(directory, model, weights)
    model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer
    return state


def read_state(directory: Path) -> dict[str, Any]:
    """The position and the history of a checkpoint. Raises CheckpointError."""
    try:
        return dict(json.loads((directory / STATE_FILE).read_text()))
    except Exception as error:
        raise CheckpointError(f"{directory}: not a readable checkpoint ({error})") from error


def read_history(directory: Path) -> list[dict[str, float]]:
    """The metrics of every epoch up to a checkpoint, first epoch first. Raises CheckpointError."""
    try:
        return list(read_state(directory)["history"])
    except KeyError as error:
        raise CheckpointError(f"{directory}: not a readable checkpoint (no {error})") from error


def load_weights(directory: Path, model: nn.Module) -> None:
    """Load only the weights of a checkpoint into `model`. Raises CheckpointError."""
    try:
        weights = load_file(directory / WEIGHTS_FILE)
    except Exception as error:
        raise CheckpointError(f"{directory}: no readable weights ({error})") from error
    _check_fit(directory, model, weights)
    model.load_state_dict(weights)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Row-major, which is all that safetensors stores, also where the model is channels-last.
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }


def _check_fit(directory: Path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differences = [
        f"{name}: model {own.get(name, 'has none')}, checkpoint {found.get(name, 'has none')}"
        for name in sorted(own.keys() | found.keys())
        if own.get(name) != found.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:5])
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError(f"{directory}: does not fit this model: {shown}{more}")
