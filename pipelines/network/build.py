"""The network of an experiment: a configuration of FENet, or a class of the user's own."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from models import FENet, FENetConfig, split_output
from pipelines.errors import UserError


class NetworkError(UserError, ValueError):
    """A network of the user's own that cannot be trained; the message says why."""


@dataclass(frozen=True)
class NetworkConfig:
    """A network of the user's own.

    What it draws from torch's generator while it trains follows from the seed, the step and the
    worker, so that a resumed training draws as an undisturbed one; unlike FENet's dropout, not from
    the samples, so that another number of workers draws otherwise.

    network: `package.module:Class` of an `nn.Module` that maps images `(N, 3, H, W)` to logits
        `(N, classes, h, w)`, or to `(logits, auxiliary logits)` while it trains.
    arguments: of its constructor, besides `classes`, which it is always given.
    """

    __pydantic_config__ = {"extra": "forbid"}

    network: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module, _, name = self.network.partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), name]):
            raise ValueError(f"network is {self.network!r}; it must be package.module:Class")


ModelConfig = FENetConfig | NetworkConfig


def network_class(config: NetworkConfig) -> Callable[..., nn.Module]:
    """Import the class. Raises NetworkError where that fails, or `arguments` do not fit it."""
    module_name, _, name = config.network.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise NetworkError(
            f"network {config.network}: cannot import {module_name} "
            f"({type(error).__name__}: {error}); it must lie in the working directory "
            "or be installed"
        ) from error
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise NetworkError(f"network {config.network}: {module_name} has no nn.Module {name}")
    parameters = inspect.signature(found).parameters
    if "classes" not in parameters:
        raise NetworkError(f"network {config.network}: its constructor has no argument `classes`")
    known = [key for key in parameters if key != "classes"]
    for key in config.arguments:
        if key not in known:
            raise NetworkError(
                f"network {config.network}: unknown argument `{key}`; "
                f"known: {', '.join(known) or 'none'}"
            )
    for key in known:
        if parameters[key].default is inspect.Parameter.empty and key not in config.arguments:
            raise NetworkError(f"network {config.network}: argument `{key}` is missing")
    return found


def build_network(config: ModelConfig, classes: int, seed: int) -> nn.Module:
    """The network with its initial parameters, which follow from `seed` alone.

    FENet draws each parameter by (seed, name). A network of the user's own draws from torch's
    generator, seeded before its constructor and restored behind it. Raises NetworkError.
    """
    if isinstance(config, FENetConfig):
        return FENet(config, classes, seed=seed)
    found = network_class(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return found(classes=classes, **config.arguments)
        except Exception as error:
            raise NetworkError(
                f"network {config.network}: its constructor failed "
                f"({type(error).__name__}: {error})"
            ) from error


def check_network(config: NetworkConfig, classes: int, crop: tuple[int, int]) -> None:
    """Run a batch of two through a network of the user's own, in training and in evaluation.

    Raises NetworkError where it fails, or where what it returns is not logits.
    """
    model = build_network(config, classes, seed=0)
    images = torch.zeros(2, 3, *crop)
    for mode in (True, False):
        try:
            with torch.no_grad():
                logits, auxiliary = split_output(model.train(mode)(images))
        except Exception as error:
            raise NetworkError(
                f"network {config.network}: failed on images of {tuple(images.shape)} "
                f"({type(error).__name__}: {error})"
            ) from error
        for name, term in {"logits": logits, **auxiliary}.items():
            if term.ndim != 4 or tuple(term.shape[:2]) != (2, classes):
                raise NetworkError(
                    f"network {config.network}: {name} are {tuple(term.shape)} for images of "
                    f"{tuple(images.shape)}; they must be (2, {classes}, height, width)"
                )
