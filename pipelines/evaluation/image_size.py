"""Checks, before a training, that a network takes images of the size that validation gives it."""

from pipelines.data.dataset import Split
from pipelines.errors import is_out_of_memory
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.inference import scaled_size
from pipelines.network.build import NetworkError, is_custom
from pipelines.network.config import ModelConfig
from pipelines.network.cost import multiply_adds, network_on_meta


def check_evaluation(
    model: ModelConfig, classes: int, config: InferenceConfig, split: Split
) -> None:
    """Run a custom network on the meta device, on an image of each size that it gets from the
    largest image of `split`.

    Raises:
        NetworkError: the network cannot be built, or fails, such as one for images of a fixed size.
    """
    if not is_custom(model):
        return
    channels = split.image_format.channels
    network = network_on_meta(model, classes, channels)
    for size in _sizes(config, split):
        try:
            multiply_adds(network, model, classes, size, channels)
        except NetworkError as error:
            if error.__cause__ is not None and is_out_of_memory(error.__cause__):
                continue  # the machine that trains may have more memory
            raise NetworkError(
                f"validation: {error}; set evaluation.window to a size that the network takes"
            ) from error


def _sizes(config: InferenceConfig, split: Split) -> list[tuple[int, int]]:
    """Return the heights and widths of the images or windows that a network gets."""
    pixels = split.heights * split.widths
    largest = int(pixels.argmax())
    image = int(split.heights[largest]), int(split.widths[largest])
    sizes = [scaled_size(image, scale) for scale in config.scales]
    if config.window is not None:
        height, width = config.window
        sizes = [(min(height, size[0]), min(width, size[1])) for size in sizes]
    return [*dict.fromkeys(sizes)]
