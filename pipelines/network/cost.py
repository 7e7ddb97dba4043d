"""The cost of an experiment's network."""

from contextlib import suppress

from torch import nn

from models import FENetConfig
from models.cost import computed_multiply_adds_by_part, multiply_adds_by_part, on_meta
from models.user_code import failures_as
from pipelines.network.build import NetworkError, build_network, network_name
from pipelines.network.config import ModelConfig


def network_on_meta(config: ModelConfig, classes: int, channels: int = 3) -> nn.Module:
    """Build the network on the meta device, in evaluation mode.

    channels: of the images.

    Raises:
        NetworkError: see `build_network`.
    """
    if not isinstance(config, FENetConfig):
        return on_meta(build_network(config, classes, 0, channels), classes)
    with failures_as(NetworkError, f"{network_name(config)}: its constructor failed"):
        return on_meta(config, classes, channels)


def multiply_adds(
    model: nn.Module,
    config: ModelConfig,
    classes: int,
    size: tuple[int, int],
    channels: int = 3,
) -> dict[str, int]:
    """Count the multiply-adds of one image by part; see `models.cost.multiply_adds_by_part`.

    Nothing is computed, unless the network's operations depend on values.

    model: of `network_on_meta`. size: height and width in pixels. channels: of the image.

    Raises:
        NetworkError: the network does not take images of this size.
    """
    with suppress(Exception):
        return multiply_adds_by_part(model, classes, *size, channels)
    network = build_network(config, classes, 0, channels).eval()
    failed = f"{network_name(config)}: failed on an image of {size[0]} x {size[1]} pixels"
    with failures_as(NetworkError, failed):
        return computed_multiply_adds_by_part(network, *size, channels)
