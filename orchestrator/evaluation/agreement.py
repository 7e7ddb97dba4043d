"""Whether an exported file computes what torch computes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines import wording
from pipelines.errors import is_out_of_memory
from pipelines.network.export import (
    ONE_SIZE,
    ExportError,
    missing_package,
    whole_image_logits,
)

# Normalized images, float32 (batch, channels, height, width), to logits (batch, classes, height,
# width).
Predict = Callable[[Tensor], Tensor]

# Logits may differ by this share of the largest one: kernels add in another order.
_TOLERANCE = 1e-3


def agreement(
    network: nn.Module,
    exported: Predict,
    images: Sequence[Tensor],
    file: str,
    size: tuple[int, int] | None,
) -> str:
    """Return how well the file's logits agree with the network's.

    images: normalized, each float32 `(1, channels, height, width)`. file: its name. size: height
    and width of the only images that it takes; None if it takes every size.

    Raises ExportError if they do not agree, or if the network or the file cannot be applied.
    """
    advice, named = "report the operators of your network", "choose another --size"
    if size is None:
        advice, named = ONE_SIZE, "name a size that it takes with --size HxW"
    reference = partial(whole_image_logits, network)
    largest, differences = 0.0, [0.0]
    pixels = same = 0
    for image in images:
        expected = _applied(reference, image, "the network", named)
        received = _applied(exported, image, file, advice)
        if received.shape != expected.shape:
            raise ExportError(
                f"{file} returns {tuple(received.shape)} for an image of {_pixels(image)}, but "
                f"torch {tuple(expected.shape)}; {advice}"
            )
        largest = max(largest, float(expected.abs().max()))
        differences.append(float((received - expected).abs().max()))
        pixels += expected[:, 0].numel()
        same += int((received.argmax(1) == expected.argmax(1)).sum())
    difference = float(np.max(differences))  # NaN if one is
    text = f"logits differ by at most {difference:.1g}, {100 * same / pixels:.3f} % of the pixels"
    text += " get the class that torch predicts,"
    if not difference <= _TOLERANCE * max(largest, 1e-6):
        raise ExportError(
            f"{file} does not compute what torch computes: {text} of {len(images)} images; "
            "nothing was written; report the operators of your network"
        )
    return text.rstrip(",")


def _applied(predict: Predict, image: Tensor, what: str, advice: str) -> Tensor:
    """Return the logits. Raises ExportError, which says that `what` failed, with `advice`."""
    try:
        return predict(image)
    except Exception as error:  # torch and onnxruntime have many classes for this
        if is_out_of_memory(error):
            raise
        raise ExportError(
            f"{what} cannot be applied to an image of {_pixels(image)} ({wording.cause(error)}); "
            f"{advice}"
        ) from error


def _pixels(image: Tensor) -> str:
    height, width = image.shape[-2:]
    return f"{height} x {width} pixels"


def load_torch(file: Path) -> Predict:
    """Load a `torch.export` archive."""
    module = torch.export.load(file).module()

    def predict(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(images)
        return logits

    return predict


def load_onnx(file: Path) -> Predict:
    """Load an ONNX file. Raises ExportError if onnxruntime is missing."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise missing_package("onnxruntime") from None

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (images_input,) = session.get_inputs()

    def predict(images: Tensor) -> Tensor:
        feed: Mapping[str, Any] = {images_input.name: images.contiguous().numpy()}
        return torch.from_numpy(session.run(None, feed)[0])

    return predict
