"""Builds the network of an experiment: FENet, or a custom class."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models import FENet, FENetConfig, split_output
from models.hugging_face.configuration import model_config, normalization, resolve
from models.hugging_face.network import HuggingFaceNetwork
from models.initialization import keyed_construction
from models.registry import NETWORKS, library_and_name, takes_argument
from pipelines.errors import UserError
from pipelines.network.config import ModelConfig, NetworkConfig


class NetworkError(UserError, ValueError):
    """A network that cannot be trained; the message says why."""


def network_class(config: NetworkConfig) -> Callable[..., nn.Module]:
    """Import the class of a custom network; its constructor takes `classes` and the arguments.

    Raises:
        NetworkError: the import fails, or `config.arguments` do not fit the constructor.
    """
    if library_and_name(config.network) is not None:
        return _library_network(config)
    try:
        network: type[nn.Module] = NETWORKS.find(config.network)
        passed = {"classes": "the number of classes of the data set"}
        NETWORKS.check_arguments(config.network, network, config.arguments, passed)
    except ValueError as error:
        raise NetworkError(str(error)) from error
    if not takes_argument(network, "classes", declared=False):
        raise NetworkError(f"network {config.network}: its constructor has no argument `classes`")
    return network


def _library_network(config: NetworkConfig) -> Callable[..., nn.Module]:
    """Return a constructor of a library's network. Raises NetworkError."""
    try:
        cls: type[HuggingFaceNetwork] = NETWORKS.find(config.network)
        name, arguments = resolve(config.network, config.arguments)
        model_config("network", name, arguments)
        normalization(arguments)
    except ValueError as error:
        raise NetworkError(f"network {config.network}: {error}") from error

    def build(classes: int, **_arguments: Any) -> nn.Module:
        return cls(name, classes, arguments)

    return build


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
