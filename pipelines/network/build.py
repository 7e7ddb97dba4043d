"""Builds the network of an experiment: FENet, or a custom class."""

import importlib
import inspect
from collections.abc import Callable

import torch
from torch import nn

from models import FENet, FENetConfig, split_output
from models.initialization import keyed_construction
from pipelines.errors import UserError
from pipelines.network.config import ModelConfig, NetworkConfig


class NetworkError(UserError, ValueError):
    """A network that cannot be trained; the message says why."""


def network_class(config: NetworkConfig) -> Callable[..., nn.Module]:
    """Import the class of a custom network.

    Raises:
        NetworkError: the import fails, or `config.arguments` do not fit the constructor.
    """
    module_name, _, name = config.network.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script may exit when it is imported
        raise NetworkError(
            f"network {config.network}: cannot import {module_name} "
            f"({type(error).__name__}: {error}); it must be in the working directory or be "
            "installed"
        ) from error
    network = getattr(module, name, None)
    if not (inspect.isclass(network) and issubclass(network, nn.Module)):
        raise NetworkError(f"network {config.network}: {module_name} has no nn.Module {name}")
    _check_arguments(network, config)
    return network


def _check_arguments(network: type[nn.Module], config: NetworkConfig) -> None:
    """Raise NetworkError if the constructor does not take `classes` and the arguments by name.

    A constructor with `**kwargs` may take any name; building the network shows whether it does.
    """
    parameters = inspect.signature(network).parameters
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {name: each for name, each in parameters.items() if each.kind in by_name}
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    if "classes" not in named and not takes_any:
        raise NetworkError(f"network {config.network}: its constructor has no argument `classes`")
    names = [name for name in named if name != "classes"]
    if "classes" in config.arguments:
        raise NetworkError(
            f"network {config.network}: remove the argument `classes`; it is the number of classes "
            "of the data set"
        )
    for name in config.arguments:
        if name not in names and not takes_any:
            raise NetworkError(
                f"network {config.network}: unknown argument `{name}`; "
                f"known: {', '.join(names) or 'none'}"
            )
    for name in names:
        if named[name].default is inspect.Parameter.empty and name not in config.arguments:
            raise NetworkError(f"network {config.network}: argument `{name}` is missing")


def build_network(config: ModelConfig, classes: int, seed: int) -> nn.Module:
    """Build the network; its initial parameters depend only on `seed`.

    Modules are initialized by (seed, name), except where a constructor sets other values, such as
    pretrained weights; see `models.initialization`.

    Raises:
        NetworkError: a custom network cannot be built.
    """
    if isinstance(config, FENetConfig):
        return FENet(config, classes, seed=seed)
    build = network_class(config)
    with keyed_construction(seed) as construction:
        try:
            network = build(classes=classes, **config.arguments)
            construction.initialize(network)
        except Exception as error:
            raise NetworkError(
                f"network {config.network}: its constructor failed "
                f"({type(error).__name__}: {error})"
            ) from error
    return network


def check_network(config: NetworkConfig, classes: int, crop: tuple[int, int]) -> None:
    """Run a batch of two images through a custom network, in training and in evaluation mode.

    Raises:
        NetworkError: the network fails, or its output is not logits.
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
