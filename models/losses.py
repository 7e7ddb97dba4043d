"""Losses of one output of a network, and how they add up over workers and micro-batches.

A loss is a function of statistics, sums over the pixels or the images of a batch. Workers and
micro-batches add up their statistics before the loss is computed, so it does not depend on how the
batch is divided.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn

from models.resampling import resize
from models.upsampled_loss import IGNORE_INDEX, upsampled_cross_entropy

#: Weights of the classes: a list, or computed from the frequency f of each class in the training
#: split: `median(f) / f` of the frequencies among the pixels of the images that contain the class
#: (Eigen and Fergus, ICCV 2015), or `1 / ln(1.02 + f)` of those among all pixels (Paszke et al.,
#: 2016). Only labeled pixels count. A class that does not occur has no median frequency and the
#: weight 0.
ClassWeights = Sequence[float] | Literal["median-frequency", "log-frequency"]


class Loss(nn.Module):
    """The contract of a loss.

    A constructor gets, for each of these arguments that it has: `classes`, the number of classes;
    `frequencies`, each class's fraction of the labeled pixels of the training split;
    `image_frequencies`, its fraction of those of the images that contain the class.
    """

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return sums over a batch, at least float32 `(S,)`, with gradient.

        Args:
            logits: `(N, K, h, w)`, often smaller than the labels; see `full_size`.
            labels: int64 `(N, H, W)`, classes 0 to K - 1 or 255 for pixels without a class.
        """
        raise NotImplementedError(f"{type(self).__name__} has no statistics")

    def value(self, statistics: Tensor) -> Tensor:
        """Return the loss, a scalar, from the sums over the whole batch; 0 without labels."""
        raise NotImplementedError(f"{type(self).__name__} has no value")


def full_size(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits in float32, resized bilinearly to the labels' size."""
    return resize(logits.float(), labels)


def quotient(total: Tensor, count: Tensor) -> Tensor:
    """Return `total / count`, and `total` where `count` is 0, which is 0 unless it is NaN."""
    # Divided by a tiny number instead, the gradient would be infinite, and NaN times a weight of 0.
    return total / torch.where(count == 0, 1, count)


class MinedCrossEntropy(Loss):
    """Mean cross-entropy of the hard pixels of each image; see `mined_cross_entropy`.

    Adds up: the sum over the kept pixels and their number. Each image is mined by itself.
    """

    def __init__(self, threshold: float, share: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.share = share

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.stack(mined_cross_entropy(logits, labels, self.threshold, self.share))

    def value(self, statistics: Tensor) -> Tensor:
        return statistics[0] / statistics[1].clamp(min=1)


class CrossEntropy(Loss):
    """Mean cross-entropy of all pixels, `Σ w_y l / Σ w_y` with class weights `w`.

    Adds up: both sums.
    """

    def __init__(
        self,
        classes: int,
        frequencies: Sequence[float],
        class_weights: ClassWeights | None = None,
        *,
        image_frequencies: Sequence[float] = (),
    ) -> None:
        super().__init__()
        weights = _class_weights(class_weights, classes, frequencies, image_frequencies)
        self.register_buffer("class_weights", weights, persistent=False)

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = upsampled_cross_entropy(logits, labels)
        weights = self._pixel_weights(labels, losses.dtype)
        return torch.stack([(weights * losses).sum(), weights.sum()])

    def value(self, statistics: Tensor) -> Tensor:
        return quotient(statistics[0], statistics[1])

    def _pixel_weights(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the weight of each pixel's class, 0 where ignored."""
        valid = labels != IGNORE_INDEX
        classes: Tensor = self.get_buffer("class_weights")
        return classes.to(dtype)[labels.masked_fill(~valid, 0)] * valid


class Focal(CrossEntropy):
    """Focal loss, the mean of `w_y (1 - p)^gamma (-log p)` over all pixels (Lin et al., ICCV 2017).

    `p` is the probability of the pixel's class, `w` are class weights. Adds up: the sum over the
    labeled pixels and their number.
    """

    def __init__(
        self,
        classes: int,
        frequencies: Sequence[float],
        gamma: float = 2.0,
        class_weights: ClassWeights | None = None,
        *,
        image_frequencies: Sequence[float] = (),
    ) -> None:
        super().__init__(classes, frequencies, class_weights, image_frequencies=image_frequencies)
        if not gamma >= 0:
            raise ValueError(f"gamma must not be negative, received {gamma}")
        self.gamma = gamma

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = upsampled_cross_entropy(logits, labels)
        # Above 0, so that the power has a finite gradient.
        missing = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).eps)
        weights = self._pixel_weights(labels, losses.dtype) * missing**self.gamma
        return torch.stack([(weights * losses).sum(), (labels != IGNORE_INDEX).sum()])


class ByWorker(Loss):
    """An `nn.Module` that maps logits `(N, K, H, W)` and labels to a scalar, as most libraries do.

    Does not add up: it is computed for each worker and each micro-batch by itself,
    and averaged with the numbers of images as weights. Unless it is a mean over images, it depends
    on how the batch is divided. A share without a labeled pixel has value, weight and gradient 0.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        labeled = (labels != IGNORE_INDEX).any()
        # A mean over no pixel would be NaN and have a gradient of NaN, even with a weight of 0, so
        # the loss is computed with labels of all classes.
        every = torch.arange(labels.numel(), device=labels.device) % logits.shape[1]
        counted = torch.where(labeled, labels, every.view_as(labels))
        value = self.module(full_size(logits, labels), counted)
        if not (isinstance(value, Tensor) and value.ndim == 0):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{type(self.module).__name__} returned {shape}, not a scalar")
        images = len(labels) * labeled.to(value.dtype)
        return torch.stack([value * images, images])

    def value(self, statistics: Tensor) -> Tensor:
        return statistics[0] / statistics[1].clamp(min=1)


def mined_cross_entropy(
    logits: Tensor, labels: Tensor, threshold: float, share: float
) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropy over each image's hard pixels, and their number.

    A valid pixel is kept if the probability `p` of its class is below `threshold`, or among the k
    smallest of the image's valid pixels, with `k = round(share * H * W)`, at least 1 if `share` is
    above 0. Pixels tied with the k-th are kept, so the result does not depend on their order; with
    fewer than k valid pixels, all are kept. Source: Shrivastava et al., CVPR 2016, in the form used
    by public code of related papers, which keeps pixels "below the larger of threshold and k-th
    smallest"; here the k-th pixel itself is included.

    Pixels are compared by their loss `-log p`, in float32 for any dtype of the logits. No shape
    depends on the data and nothing is copied to the host.

    Args:
        logits: `(N, K, h, w)`, upsampled bilinearly to the labels' size.
        labels: int64 `(N, H, W)`, classes 0 to K - 1 or 255 for pixels without a class.
        threshold: probability below which a pixel is kept.
        share: fraction of the image's pixels that is always kept.

    Returns:
        Two float32 scalars, sum and number of pixels; the sum has a gradient.
    """
    losses = upsampled_cross_entropy(logits, labels)
    valid = labels != IGNORE_INDEX
    with torch.no_grad():
        hardness = losses.masked_fill(~valid, -1).flatten(start_dim=1)
        threshold_loss = -math.log(threshold) if threshold > 0 else math.inf
        hard = hardness > threshold_loss
        if share > 0:
            k = max(1, round(share * hardness.shape[1]))
            kth = hardness.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
            hard |= hardness >= kth
        # Comparisons with NaN are false; without this, a diverged network would have a loss of 0.
        kept = (hard.view_as(valid) | losses.isnan()) & valid
    return torch.where(kept, losses, 0).sum(), kept.sum(dtype=torch.float32)


def _class_weights(
    chosen: ClassWeights | None,
    classes: int,
    frequencies: Sequence[float],
    image_frequencies: Sequence[float],
) -> Tensor:
    """Return the weight of each class, float64 `(classes,)`; 1 without `chosen`."""
    if chosen is None:
        return torch.ones(classes, dtype=torch.float64)
    if isinstance(chosen, str):
        if chosen == "log-frequency":
            return 1 / torch.log(1.02 + torch.tensor(frequencies, dtype=torch.float64))
        if chosen == "median-frequency":
            shares = image_frequencies or frequencies
            occurring = [each for each in shares if each > 0]
            middle = median(occurring) if occurring else 0.0
            inverse = [middle / each if each > 0 else 0.0 for each in shares]
            return torch.tensor(inverse, dtype=torch.float64)
        raise ValueError(
            f"class_weights is {chosen!r}; known: median-frequency, log-frequency; or a list"
        )
    try:
        weights = torch.tensor(chosen, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):  # a mapping, or text or lists among the numbers
        raise ValueError(
            f"class_weights must be a list of {classes} numbers, one for each class in their "
            f"order, received {chosen!r}"
        ) from None
    # Sums over a batch, and their reciprocals, must be finite in float32.
    usable = (weights == 0) | ((weights >= 1e-20) & (weights <= 1e20))
    if weights.shape != (classes,) or not usable.all() or not weights.any():
        raise ValueError(
            f"class_weights must be {classes} numbers, one for each class, each of them 0 or from "
            f"1e-20 to 1e20 and not all 0, received {list(chosen)}"
        )
    return weights
