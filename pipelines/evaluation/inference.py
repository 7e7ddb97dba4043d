"""Apply a model to a whole image: scales, flip, sliding window.

Logits are resized bilinearly to the image's size before the argmax. The logits of overlapping
windows are averaged; over scales and flip, the probabilities are averaged.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import split_output
from pipelines import wording
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.normalization import normalize
from pipelines.errors import UserError, is_gpu_fault, is_out_of_memory
from pipelines.evaluation.config import InferenceConfig
from pipelines.network.precision import Numerics

# Rows of the image for which full-size logits are held at once.
_ROWS = 64
# Windows pass through the network together up to this number of pixels, an image of Cityscapes.
_WINDOW_PIXELS = 2**21


class NonFiniteLogitsError(UserError, RuntimeError):
    """A network returned NaN logits: its training has diverged."""


class InputSizeError(UserError, RuntimeError):
    """A network cannot be applied to an image or to windows, most likely because of their size."""


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    size: tuple[int, int],
    config: InferenceConfig | None = None,
    probabilities: Tensor | None = None,
) -> Tensor:
    """Return class indices, int64 `(batch, height, width)` of `size`, for normalized `images`.

    probabilities: is filled with those of the classes, float32 `(batch, classes, height, width)`.

    Memory is bounded by the network's output of one pass and, with several passes, the sum of the
    probabilities, float32 `(batch, classes, height, width)`; full-size logits are computed a strip
    of rows at a time.

    Raises NonFiniteLogitsError if the network returns NaN, InputSizeError if it cannot take an
    image or a window.
    """
    config = config or InferenceConfig()
    prediction = torch.empty((len(images), *size), dtype=torch.int64, device=images.device)
    if len(config.views) == 1:
        # The largest logit has the largest probability, so no softmax is needed.
        ((scale, mirrored),) = config.views
        logits = _logits(model, images, config, scale, mirrored)
        for rows, strip in _strips(logits, mirrored, size):
            prediction[:, rows] = strip.argmax(dim=1)
            if probabilities is not None:
                probabilities[:, :, rows] = strip.softmax(dim=1)
        return prediction
    total: Tensor | None = None
    for scale, mirrored in config.views:
        logits = _logits(model, images, config, scale, mirrored)
        if total is None:
            total = logits.new_zeros((*logits.shape[:2], *size))
        for rows, strip in _strips(logits, mirrored, size):
            total[:, :, rows] += strip.softmax(dim=1)
        # Free this pass's logits before the next pass allocates its own.
        del logits, strip
    assert total is not None, "views is never empty"
    if probabilities is not None:
        torch.div(total, len(config.views), out=probabilities)
    return torch.argmax(total, dim=1, out=prediction)


def predict_image(
    model: nn.Module,
    image: Tensor,
    numerics: Numerics,
    config: InferenceConfig | None = None,
    image_format: ImageFormat = RGB,
) -> Tensor:
    """Return class indices, uint8 `(height, width)`, of `image`, the stored values `(height, width,
    channels)`. Raises as `predict`."""
    prediction, _ = _predict_stored(model, image, numerics, config, image_format)
    return prediction[0].to("cpu", torch.uint8)


def predict_probabilities(
    model: nn.Module,
    image: Tensor,
    numerics: Numerics,
    classes: int,
    config: InferenceConfig | None = None,
    image_format: ImageFormat = RGB,
) -> Tensor:
    """Return the probabilities of the classes, float32 `(classes, height, width)`, averaged over
    scales and flip, of `image`, the stored values `(height, width, channels)`. Raises as
    `predict`."""
    _, probabilities = _predict_stored(model, image, numerics, config, image_format, classes)
    assert probabilities is not None
    return probabilities[0].cpu()


@torch.no_grad()
def _predict_stored(
    model: nn.Module,
    image: Tensor,
    numerics: Numerics,
    config: InferenceConfig | None,
    image_format: ImageFormat,
    classes: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the prediction of an image's stored values, `(1, height, width)`, and if `classes` is
    given the probabilities, `(1, classes, height, width)`; see `predict`."""
    training = model.training
    model.eval()
    try:
        images = normalize(image.permute(2, 0, 1).unsqueeze(0).to(numerics.device), image_format)
        size = (image.shape[0], image.shape[1])
        probabilities = None if classes is None else images.new_empty((1, classes, *size))
        with numerics.autocast():
            inputs = numerics.to_memory_format(images)
            return predict(model, inputs, size, config, probabilities), probabilities
    finally:
        model.train(training)


def window_starts(size: int, window: int, step: int) -> list[int]:
    """Return the starts of the windows on an axis of `size` pixels, `step` pixels apart.

    The last window ends with the axis. An axis no longer than the window has one window, at 0.
    """
    last = max(size - window, 0)
    return [*range(0, last, step), last]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return height and width times `scale`, rounded half up to whole pixels, at least 1."""
    height, width = (max(1, math.floor(scale * length + 0.5)) for length in size)
    return height, width


def _logits(
    model: nn.Module,
    images: Tensor,
    config: InferenceConfig,
    scale: float,
    mirrored: bool,
) -> Tensor:
    """Return the network's logits of one pass, float32, at its output size, still mirrored."""
    if mirrored:
        images = images.flip(-1)
    images = _resize(images, scaled_size((images.shape[-2], images.shape[-1]), scale))
    if config.window is None or config.step is None:
        logits = _pass(model, images, None)
    else:
        logits = _window_logits(model, images, config.window, config.step)
    # The argmax of NaN logits would be a valid class, and the image would be scored.
    if bool(logits.isnan().any()):
        raise NonFiniteLogitsError(
            "the network predicts NaN because its training has diverged; try a lower learning "
            "rate, warm-up or gradient_clip"
        )
    return logits


def _strips(
    logits: Tensor, mirrored: bool, size: tuple[int, int]
) -> Iterator[tuple[slice, Tensor]]:
    """Yield `logits` resized bilinearly to `size`, with mirroring undone, a strip of rows at a
    time together with the slice of its rows."""
    height, (rows, columns) = logits.shape[-2], size
    position = (torch.arange(rows, device=logits.device, dtype=torch.double) + 0.5) * height / rows
    position = (position - 0.5).clamp(0, height - 1)
    above = position.long()
    below = (above + 1).clamp(max=height - 1)
    share = (position - above).to(logits.dtype)[:, None]
    for start in range(0, rows, _ROWS):
        strip = slice(start, min(start + _ROWS, rows))
        if height == rows:
            part = logits[:, :, strip]
        else:
            first, last = logits[:, :, above[strip]], logits[:, :, below[strip]]
            part = torch.lerp(first, last, share[strip])
        # The rows are already resized; this resizes the columns only.
        part = _resize(part, (strip.stop - start, columns))
        yield strip, part.flip(-1) if mirrored else part


def _window_logits(
    model: nn.Module, images: Tensor, window: tuple[int, int], step: tuple[int, int]
) -> Tensor:
    """Return logits at the size of `images`, averaged where windows overlap."""
    size = (images.shape[-2], images.shape[-1])
    height, width = min(window[0], size[0]), min(window[1], size[1])
    corners = [
        (top, left)
        for top in window_starts(size[0], height, step[0])
        for left in window_starts(size[1], width, step[1])
    ]
    at_once = max(1, _WINDOW_PIXELS // (len(images) * height * width))
    total: Tensor | None = None
    windows = torch.zeros(size, device=images.device)
    for first in range(0, len(corners), at_once):
        areas = [
            (slice(top, top + height), slice(left, left + width))
            for top, left in corners[first : first + at_once]
        ]
        parts = torch.cat([images[:, :, rows, columns] for rows, columns in areas])
        logits = _pass(model, parts, window)
        if total is None:
            total = logits.new_zeros((len(images), logits.shape[1], *size))
        for (rows, columns), part in zip(areas, logits.split(len(images)), strict=True):
            total[:, :, rows, columns] += _resize(part, (height, width))
            windows[rows, columns] += 1
    assert total is not None, "there is at least one window"
    return total.div_(windows)


def _pass(model: nn.Module, images: Tensor, window: tuple[int, int] | None) -> Tensor:
    """Return the network's logits, float32, of whole images, or of their parts if there is a
    window. Raises InputSizeError if it cannot take them."""
    try:
        return split_output(model(images))[0].float()
    # Neither torch nor the libraries of networks have a class of their own for sizes that do not
    # fit: timm asserts, transformers raises ValueError.
    except (AssertionError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error) or is_gpu_fault(error):
            raise
        size = (images.shape[-2], images.shape[-1])
        what, advice = _explained(size, window)
        raise InputSizeError(
            f"the network cannot be applied to {what} ({wording.cause(error)}); {advice}"
        ) from error


def _explained(size: tuple[int, int], window: tuple[int, int] | None) -> tuple[str, str]:
    """Return what a network cannot take, pixels of `size`, and what to do."""
    pixels = f"{size[0]} x {size[1]} pixels"
    if window is None:
        return f"an image of {pixels}", (
            "predict it in windows that the network takes, with --window HxW (in an experiment, "
            "evaluation.window), or enlarge it if it is too small"
        )
    if size == window:
        return f"windows of {pixels}", "choose a window of another size"
    return f"{pixels} of an image that is smaller than the window of {window[0]} x {window[1]}", (
        "enlarge the image, or choose a smaller window that the network takes"
    )


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
