"""The state of any torch optimizer, as tensors and JSON values by the names of the parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_Scalar = int | float | bool | str | None


class OptimizerStateError(ValueError):
    """State that a checkpoint cannot hold, or that does not fit the optimizer."""


@dataclass(frozen=True)
class OptimizerState:
    """The state of an optimizer.

    Keys are `PARAMETER:KEY` for the state of a parameter, and `group INDEX:KEY` for that of a group
    of parameters.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> OptimizerState:
    """Return the state of the optimizer of `model`; its tensors are not copied.

    Raises:
        OptimizerStateError: the optimizer keeps something other than tensors and numbers.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for key, value in _entries(model, optimizer):
        if isinstance(value, Tensor):
            tensors[key] = value
        elif _is_plain(value):
            values[key] = value
        else:
            raise OptimizerStateError(
                f"{type(optimizer).__name__} keeps {key} of type {type(value).__name__}; an "
                "optimizer may keep tensors and numbers by parameter"
            )
    return OptimizerState(tensors, values)


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: OptimizerState
) -> None:
    """Load a state that `optimizer_state` returned into the optimizer of `model`.

    Raises:
        OptimizerStateError: a parameter or a group of the state is missing.
    """
    parameters = dict(model.named_parameters())
    indices = {name: index for index, name in enumerate(_names(model, optimizer))}
    loaded = optimizer.state_dict()
    entries: dict[int, dict[str, Any]] = {}
    for full_key, value in {**state.tensors, **state.values}.items():
        name, _, key = full_key.rpartition(":")
        if name in indices:
            if isinstance(value, Tensor) and value.shape == parameters[name].shape:
                # With the memory format of the parameter, which fused optimizers require.
                value = torch.empty_like(parameters[name], dtype=value.dtype).copy_(value)
            entries.setdefault(indices[name], {})[key] = value
        elif name.startswith("group "):
            group = loaded["param_groups"][int(name.removeprefix("group "))]
            is_tuple = isinstance(group.get(key), tuple)
            group[key] = tuple(value) if is_tuple else value
        else:
            raise OptimizerStateError(f"the optimizer has no parameter {name}")
    optimizer.load_state_dict({**loaded, "state": entries})
    # torch casts the state of a parameter to its data type.
    for name, index in indices.items():
        state_of_parameter = optimizer.state.get(parameters[name], {})
        for key, value in entries.get(index, {}).items():
            kept = state_of_parameter.get(key)
            if isinstance(value, Tensor) and isinstance(kept, Tensor) and kept.dtype != value.dtype:
                state_of_parameter[key] = value.to(parameters[name].device)


def _entries(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of the state of every parameter and of every group."""
    names = _names(model, optimizer)
    whole = optimizer.state_dict()
    for index, entries in whole["state"].items():
        name = names[index] if isinstance(index, int) else str(index)
        if not (isinstance(index, int) and isinstance(entries, Mapping)):
            yield name, entries
            continue
        for key, value in entries.items():
            yield f"{name}:{key}", value
    for index, group in enumerate(whole["param_groups"]):
        for key, value in group.items():
            if key != "params":
                yield f"group {index}:{key}", value


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the name of each parameter of the optimizer, in its order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[each] for group in optimizer.param_groups for each in group["params"]]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(each, _Scalar) for each in value)
    return isinstance(value, _Scalar)
