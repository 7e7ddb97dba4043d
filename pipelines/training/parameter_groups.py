"""Groups of parameters with their own weight decay and learning rate."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase, translate
from typing import Any

import torch
from torch import nn

from pipelines.errors import UserError
from pipelines.training.config import LayerDecay, OptimizerConfig

#: Factor of a group's learning rate; a key of the optimizer's groups.
RATE_FACTOR = "rate_factor"

_MAX_SHOWN = 12
# Parts of a name without a number that are shown.
_MAX_DEPTH = 3


class OptimizationError(UserError, ValueError):
    """An optimizer or a schedule that cannot be used; the message says why."""


def parameter_groups(
    model: nn.Module, config: OptimizerConfig, weight_decay: float
) -> list[dict[str, Any]]:
    """Return groups for a torch optimizer: parameters, `weight_decay` and `rate_factor`.

    Groups are in the order of their first parameter. Parameters that need no gradient are left out.

    Raises:
        OptimizationError: a pattern matches no parameter, or there is no parameter to train.
    """
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    if not named:
        raise OptimizationError("the network has no parameter that needs a gradient")
    no_decay = _without_decay(model, named, config.no_decay)
    factors = _rate_factors(named, config)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        decay = 0.0 if name in no_decay else weight_decay
        groups.setdefault((decay, factors[name]), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, RATE_FACTOR: factor}
        for (decay, factor), parameters in groups.items()
    ]


def moving_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters of `model`, in its order, except those with a rate factor of 0 in the
    optimizer's groups, which keep their initial values."""
    fixed = {
        id(parameter)
        for group in optimizer.param_groups
        if group.get(RATE_FACTOR) == 0
        for parameter in group["params"]
    }
    return [each for each in model.parameters() if id(each) not in fixed]


def _without_decay(
    model: nn.Module, named: Mapping[str, nn.Parameter], patterns: Sequence[str]
) -> set[str]:
    """Return the names of the parameters without weight decay."""
    names: set[str] = set()
    for pattern in patterns:
        if pattern == "norm":
            names |= set(_normalization(model)) & named.keys()
        elif pattern == "bias":
            # Also `in_proj_bias` of torch's attention.
            names |= {name for name in named if re.search(r"(^|\.)(in_proj_)?bias$", name)}
        else:
            names |= _matches("optimizer.no_decay", pattern, named)
    return names


def _normalization(model: nn.Module) -> Iterator[str]:
    """Yield the names of the parameters of normalization layers: batch, layer, group, RMS norm."""
    for prefix, module in model.named_modules():
        if "Norm" in type(module).__name__:
            for name, _ in module.named_parameters(prefix, recurse=False):
                yield name


def _rate_factors(named: Mapping[str, nn.Parameter], config: OptimizerConfig) -> dict[str, float]:
    """Return each parameter's factor of the learning rate."""
    factors = dict.fromkeys(named, 1.0)
    for pattern, factor in config.rate_factors.items():
        for name in _matches("optimizer.rate_factors", pattern, named):
            factors[name] *= factor
    if config.layer_decay is not None:
        for name, distance in _distances(named, config.layer_decay).items():
            factors[name] *= config.layer_decay.factor**distance
    return factors


def _distances(named: Mapping[str, nn.Parameter], decay: LayerDecay) -> dict[str, int]:
    """Return how many layers after a parameter's layer there are, plus 1, for those in a layer."""
    layers: dict[str, tuple[int, ...]] = {}
    for index, pattern in enumerate(decay.layers):
        # Each `#` of the pattern becomes a group of digits.
        expression = re.compile(translate(pattern).replace(re.escape("#"), r"(\d+)"))
        matches = {name: match for name in named if (match := expression.match(name))}
        if not matches:
            raise _unmatched("optimizer.layer_decay.layers", pattern, named)
        for name, match in matches.items():
            layers.setdefault(name, (index, *map(int, match.groups())))
    order = sorted(set(layers.values()))
    return {name: len(order) - order.index(layer) for name, layer in layers.items()}


def _matches(key: str, pattern: str, named: Mapping[str, nn.Parameter]) -> set[str]:
    names = {name for name in named if fnmatchcase(name, pattern)}
    if not names:
        raise _unmatched(key, pattern, named)
    return names


def _unmatched(key: str, pattern: str, named: Mapping[str, nn.Parameter]) -> OptimizationError:
    groups = _groups(named)
    more = f" and {len(groups) - _MAX_SHOWN} more groups" if len(groups) > _MAX_SHOWN else ""
    return OptimizationError(
        f"training.{key} has {pattern!r}, which matches no parameter; those of the network are "
        f"{', '.join(groups[:_MAX_SHOWN])}{more} (# stands for a number)"
    )


def _groups(named: Mapping[str, nn.Parameter]) -> list[str]:
    """Return patterns that describe all parameters: up to the first number in a name, as `#`, or
    without its last part."""
    patterns: dict[str, None] = {}
    for name in named:
        parts = name.split(".")
        numbers = [index for index, part in enumerate(parts) if part.isdecimal()]
        start = parts[: numbers[0]] + ["#"] if numbers else parts[:-1][:_MAX_DEPTH]
        patterns[".".join([*start, "*"] if start else [name])] = None
    return list(patterns)
