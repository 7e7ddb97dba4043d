"""The cost of an experiment's network, counted without computing anything."""

from torch import nn

from models import FENetConfig
from models.cost import multiply_adds_by_part, on_meta
from models.user_code import failures_as
from pipelines.network.build import NetworkError, build_network, network_name
from pipelines.network.config import ModelConfig


def network_on_meta(config: ModelConfig, classes: int) -> nn.Module:
    """Build the network on the meta device, in evaluation mode.

    Raises:
        NetworkError: see `build_network`.
    """
    if not isinstance(config, FENetConfig):
        return on_meta(build_network(config, classes, seed=0), classes)
    with failures_as(NetworkError, f"{network_name(config)}: its constructor failed"):
        return on_meta(config, classes)


def multiply_adds(
    model: nn.Module, config: ModelConfig, classes: int, size: tuple[int, int]
) -> dict[str, int]:
    """Count the multiply-adds of one image by part; see `models.cost.multiply_adds_by_part`.

    model: of `network_on_meta`. size: height and width in pixels.

    Raises:
        NetworkError: the network does not take images of this size, or its operations depend on
            values, which do not exist on the meta device.
    """
    height, width = size
    failed = f"{network_name(config)}: failed on an image of {height} x {width} pixels"
    with failures_as(NetworkError, failed):
        return multiply_adds_by_part(model, classes, height, width)
