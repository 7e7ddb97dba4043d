"""Cross-entropy of upsampled logits that never holds all of them.

Full-size logits in float32 are by far the largest tensors of a training step: 5 GB for 150 classes
and eight images of 1024 x 1024 pixels, several times over. Here, logits are upsampled in strips of
rows, once for the losses and again for their gradient.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.resampling import bilinear_weights, cached_weights, without_autocast

#: Label of pixels that never contribute to the loss; the same in every prepared data set.
IGNORE_INDEX = 255

# Upsampled logits in a strip: on a CPU they stay in its caches, on a GPU they keep it busy.
_STRIP_VALUES = {"cpu": 2**19}
_DEFAULT_STRIP_VALUES = 2**25


def upsampled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every pixel, at least float32 `(N, H, W)`; 0 where ignored.

    The logits are resized bilinearly to the labels' size. Values and gradient are computed in
    float32 for any dtype of the logits; the gradient is deterministic on every device.

    Args:
        logits: `(N, K, h, w)`.
        labels: int64 `(N, H, W)`, classes 0 to K - 1 or 255 for pixels without a class.
    """
    losses: Tensor = _UpsampledCrossEntropy.apply(logits, labels)
    return losses


class _UpsampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, labels: Tensor) -> Tensor:
        with without_autocast(logits.device):
            upsampling = _Upsampling(logits, labels)
            losses = torch.empty_like(labels, dtype=upsampling.logits.dtype)
            ignored = labels == IGNORE_INDEX
            classes = labels.masked_fill(ignored, 0)[:, None]
            for strip in upsampling.strips():
                log_probabilities = upsampling.upsampled(strip).log_softmax(dim=1)
                chosen = log_probabilities.gather(1, classes[:, :, strip.rows])
                losses[:, strip.rows] = -chosen[:, 0]
            return losses.masked_fill_(ignored, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        with without_autocast(logits.device):
            upsampling = _Upsampling(logits, labels)
            grad_logits = torch.zeros_like(upsampling.logits)
            ignored = labels == IGNORE_INDEX
            grad = grad.masked_fill(ignored, 0)[:, None]
            classes = labels.masked_fill(ignored, 0)[:, None]
            for strip in upsampling.strips():
                # Gradient of cross-entropy: the probabilities, minus 1 for the label's class.
                grad_strip = upsampling.upsampled(strip).softmax(dim=1)
                _subtract_one(grad_strip, classes[:, :, strip.rows])
                grad_strip.mul_(grad[:, :, strip.rows])
                upsampling.add_gradient(grad_logits, strip, grad_strip)
            return grad_logits.to(logits.dtype), None


def _subtract_one(values: Tensor, classes: Tensor) -> None:
    """Subtract 1 from `values`, `(N, K, H, W)`, at each pixel's class, `(N, 1, H, W)`, in place."""
    if torch.are_deterministic_algorithms_enabled():  # scattering would sort all pixels on CUDA
        every_class = torch.arange(values.shape[1], device=values.device)[:, None, None]
        values.add_(classes == every_class, alpha=-1)
    else:
        values.scatter_add_(1, classes, values.new_full((), -1).expand_as(classes))


@dataclass(frozen=True)
class _Strip:
    """Rows of the labels, and the rows of the logits that they are interpolated from."""

    rows: slice
    logit_rows: slice


class _Upsampling:
    """Bilinear resizing of logits to the labels' size in strips of rows, and its adjoint."""

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.logits = logits.float().contiguous()
        (self._height, self._width) = labels.shape[-2:]
        dtype, device = self.logits.dtype, logits.device
        rows, columns = self.logits.shape[-2:]
        self._rows = cached_weights(bilinear_weights, rows, self._height, dtype, device)
        self._columns = cached_weights(bilinear_weights, columns, self._width, dtype, device)

    def strips(self) -> Iterator[_Strip]:
        """Yield strips that together cover all rows of the labels."""
        batch, classes, logit_rows, _ = self.logits.shape
        values = _STRIP_VALUES.get(self.logits.device.type, _DEFAULT_STRIP_VALUES)
        step = max(1, values // max(1, batch * classes * self._width))
        for start in range(0, self._height, step):
            stop = min(start + step, self._height)
            first, last = (int(self._center(row)) for row in (start, stop - 1))
            yield _Strip(slice(start, stop), slice(first, min(last + 2, logit_rows)))

    def _center(self, row: int) -> float:
        """Return the position of a row's center in the logits, in rows."""
        logit_rows = self.logits.shape[-2]
        return min(max((row + 0.5) * logit_rows / self._height - 0.5, 0.0), logit_rows - 1.0)

    def upsampled(self, strip: _Strip) -> Tensor:
        """Return the logits of a strip, `(N, K, rows, W)`."""
        rows = self._rows[strip.rows, strip.logit_rows] @ self.logits[:, :, strip.logit_rows]
        return F.interpolate(
            rows, size=(rows.shape[-2], self._width), mode="bilinear", align_corners=False
        )

    def add_gradient(self, grad_logits: Tensor, strip: _Strip, grad_strip: Tensor) -> None:
        """Add the gradient of a strip, `(N, K, rows, W)`, to the gradient of the logits."""
        rows = self._rows[strip.rows, strip.logit_rows].t() @ grad_strip
        grad_logits[:, :, strip.logit_rows] += rows @ self._columns
