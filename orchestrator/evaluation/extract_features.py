"""Computes the features that a network's flows change, for a figure of them."""

import torch

from models import FENet
from pipelines.data.image_format import RGB, ImageFormat, Pixels
from pipelines.data.normalization import normalize
from pipelines.evaluation.inference import predict
from pipelines.figures.features import Features
from pipelines.network.precision import Numerics


@torch.no_grad()
def extract_features(
    network: FENet,
    identifier: str,
    image: Pixels,
    level: int,
    numerics: Numerics,
    image_format: ImageFormat = RGB,
) -> Features:
    """Return the features before the flows and after each; level 1 is the finest.

    image: the stored values `(height, width, channels)`. Raises as `predict`.
    """
    stored = torch.tensor(image).permute(2, 0, 1)[None].to(numerics.device)
    images = normalize(stored, image_format)
    images = numerics.to_memory_format(images)
    with numerics.autocast():
        # First, because it says if the network cannot take the image.
        prediction = predict(network, images, (image.shape[0], image.shape[1]))
        levels = network.features(images)
    steps = [name for name in levels if name != "backbone"]
    maps = {name: levels[name][level - 1][0].float().mean(dim=0).cpu().numpy() for name in steps}
    classes = prediction[0].to("cpu", torch.uint8).numpy()
    return Features(identifier, image_format.drawn(image), maps, classes)
