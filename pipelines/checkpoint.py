"""One training's state on disk: what is needed to go on as if nothing had happened.

A checkpoint is a directory of `model.safetensors`, `momentum.safetensors` and `state.json`: no
pickled code. Everything random is keyed by (seed, epoch, sample), so no generator is saved.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS_FILE = "model.safetensors"
MOMENTUM_FILE = "momentum.safetensors"
STATE_FILE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or belongs to another model; the message names both."""


def save_checkpoint(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write weights, momentum buffers and the JSON-serialisable `state` into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(_contiguous(model.state_dict()), directory / WEIGHTS_FILE)
    momentum = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }
    save_file(_contiguous(momentum), directory / MOMENTUM_FILE)
    (directory / STATE_FILE).write_text(json.dumps(state, indent=1))


def restore_checkpoint(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote into `model` and `optimizer`; return its `state`.

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


def read_history(directory: Path) -> list[dict[str, float]]:
    """The metrics of every epoch up to a checkpoint, first epoch first. Raises CheckpointError."""
    try:
        return list(json.loads((directory / STATE_FILE).read_text())["history"])
    except Exception as error:
        raise CheckpointError(f"{directory}: not a readable checkpoint ({error})") from error


def load_weights(directory: Path, model: nn.Module) -> None:
    """Load only the weights of a checkpoint into `model`. Raises CheckpointError."""
    try:
        weights = load_file(directory / WEIGHTS_FILE)
    except Exception as error:
        raise CheckpointError(f"{directory}: no readable weights ({error})") from error
    _check_fit(directory, model, weights)
    model.load_state_dict(weights)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors stores plain row-major tensors only; channels-last ones are copied.
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


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
