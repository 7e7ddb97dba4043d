"""Builds the network of an experiment: FENet, or a custom class."""

import copy
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from models import FENet, FENetConfig, split_output
from models.config import is_built_in
from models.hugging_face.build import unreached
from models.hugging_face.configuration import model_config, normalization, resolve
from models.hugging_face.network import HuggingFaceNetwork
from models.initialization import keyed_construction
from models.registry import BACKBONES, NETWORKS, library_and_name, takes_argument
from models.user_code import failures_as
from pipelines.errors import UserError
from pipelines.network.config import ModelConfig, NetworkConfig

RGB_CHANNELS = 3
_CHANNELS = "in_channels"

# Maximum height and width in pixels of the images that a network is first checked with.
_SMALL = 256


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
        if _CHANNELS not in config.arguments:
            passed[_CHANNELS] = "the number of channels of the data set's images"
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

    def build(classes: int, in_channels: int = RGB_CHANNELS, **_arguments: Any) -> nn.Module:
        return cls(name, classes, arguments, in_channels)

    return build


def build_network(
    config: ModelConfig, classes: int, seed: int, channels: int = RGB_CHANNELS
) -> nn.Module:
    """Build the network; its initial parameters depend only on `seed`.

    The constructor of a custom network receives `channels`, the number of channels of the images,
    as `in_channels` if it has such an argument that the configuration does not set. If there are 3,
    the argument's default is left, because it may have another meaning.

    Modules are initialized by (seed, name), except where a constructor sets other values, such as
    pretrained weights; see `models.initialization`.

    Raises:
        NetworkError: the constructor of a custom network, backbone or FEM fails.
    """
    if isinstance(config, FENetConfig):
        with failures_as(NetworkError, f"{network_name(config)}: its constructor failed"):
            return FENet(config, classes, seed=seed, in_channels=channels)
    build = network_class(config)
    passed: dict[str, Any] = {"classes": classes}
    if _CHANNELS not in config.arguments and takes_argument(build, _CHANNELS):
        default = inspect.signature(build).parameters[_CHANNELS].default
        if channels != RGB_CHANNELS or default is inspect.Parameter.empty:
            passed[_CHANNELS] = channels
    with (
        keyed_construction(seed) as construction,
        failures_as(NetworkError, f"{network_name(config)}: its constructor failed"),
    ):
        network = build(**passed, **config.arguments)
        construction.initialize(network)
    return network


def network_name(config: ModelConfig) -> str:
    """Return what an error calls a network: its name, or the parts of FENet that are not built
    in."""
    if isinstance(config, NetworkConfig):
        return f"network {config.network}"
    parts = _custom_parts(config)
    return f"FENet with {', '.join(parts)}" if parts else "FENet"


def _custom_parts(config: FENetConfig) -> list[str]:
    named = [("backbone", config.backbone), *(("FEM", kind) for kind in config.flows)]
    return [f"{part} {name}" for part, name in dict.fromkeys(named) if not is_built_in(name)]


def is_custom(config: ModelConfig) -> bool:
    """Whether a network, or a part of FENet, is not one of this project."""
    return isinstance(config, NetworkConfig) or bool(_custom_parts(config))


def check_network(
    config: ModelConfig, classes: int, crop: tuple[int, int], channels: int = RGB_CHANNELS
) -> None:
    """Run a batch of two images through a custom network, or through FENet with custom parts, in
    training and in evaluation mode.

    channels: of the images. Images of at most 256 x 256 pixels are tried first, because they are
    much faster.

    Raises:
        NetworkError: the network fails on crops, or its output is not logits.
    """
    if not is_custom(config):
        return
    model = build_network(config, classes, 0, channels)
    small = min(crop[0], _SMALL), min(crop[1], _SMALL)
    try:
        try:
            _check_output(model, network_name(config), classes, small, channels)
        except NetworkError:
            if small == crop:
                raise
            # A network for images of a fixed size fails on others.
            _check_output(model, network_name(config), classes, crop, channels)
    except NetworkError as error:
        advice = _channels_advice(config, channels)
        if not advice:
            raise
        raise NetworkError(f"{error}; {advice}") from error


def unreached_parameters(
    model: nn.Module, crop: tuple[int, int], channels: int = RGB_CHANNELS
) -> frozenset[str]:
    """Return the names of the parameters to train that no output depends on in training mode.

    A copy of the network runs on two images on the meta device or, if its operations depend on
    values, on the CPU. If it fails on both, the training will, too, and there are no names.

    crop, channels: of the images.
    """
    small = min(crop[0], _SMALL), min(crop[1], _SMALL)
    for device, size in (("meta", crop), ("cpu", small), ("cpu", crop)):
        with suppress(Exception), torch.random.fork_rng(devices=[]):
            copied = copy.deepcopy(model).to(device).train()
            images = torch.zeros(2, channels, *size, device=device)
            logits, auxiliary = split_output(copied(images))
            names = unreached(copied, [logits, *auxiliary.values()])
            return frozenset(name for name in names if copied.get_parameter(name).requires_grad)
    return frozenset()


def _channels_advice(config: ModelConfig, channels: int) -> str:
    """Return what to do about a network that may take RGB images only; empty if it was built for
    the number of channels."""
    if channels == RGB_CHANNELS:
        return ""
    if isinstance(config, NetworkConfig):
        if _CHANNELS in config.arguments:
            return f"set its argument `{_CHANNELS}` to {channels}, or remove it"
        takes_channels = takes_argument(network_class(config), _CHANNELS)
    else:
        takes_channels = takes_argument(BACKBONES.find(config.backbone), _CHANNELS)
    if takes_channels:
        return ""
    return (
        f"the data set's images have {channels} channels, which a constructor with an argument "
        f"`{_CHANNELS}` receives"
    )


@torch.no_grad()
def _check_output(
    model: nn.Module, name: str, classes: int, size: tuple[int, int], channels: int
) -> None:
    images = torch.zeros(2, channels, *size)
    for mode in (True, False):
        with failures_as(NetworkError, f"{name}: failed on images of {tuple(images.shape)}"):
            logits, auxiliary = split_output(model.train(mode)(images))
        for output, term in {"logits": logits, **auxiliary}.items():
            if term.ndim != 4 or tuple(term.shape[:2]) != (2, classes):
                raise NetworkError(
                    f"{name}: {output} are {tuple(term.shape)} for images of "
                    f"{tuple(images.shape)}; they must be (2, {classes}, height, width)"
                )
