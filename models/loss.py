"""Cross-entropy with online hard example mining, and the total loss: equation (5)."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import LossConfig
from models.upsampled_loss import IGNORE_INDEX, upsampled_cross_entropy

#: Output of a network in training: logits, or logits and auxiliary logits (by name or in order).
Output = Tensor | tuple[Tensor, Mapping[str, Tensor] | Sequence[Tensor]]


class LossTerms(NamedTuple):
    """One worker's contribution to the T loss terms: the main term, then one per auxiliary head.

    Attributes:
        names: "main", then the names of the auxiliary heads.
        sums: float32 `(T,)`, cross-entropy summed over the kept pixels, with gradient.
        counts: float32 `(T,)`, number of kept pixels, without gradient.
    """

    names: tuple[str, ...]
    sums: Tensor
    counts: Tensor


class SegmentationLoss(nn.Module):
    """Equation (5): `L = L_p + λ Σ_i L_si`; every term is mined cross-entropy.

    A call returns sums and counts instead of means. Data-parallel workers add up both before
    `total` divides, so the loss does not depend on how the batch is split.

    Logits of any size are upsampled to the labels' size in strips, see `upsampled_loss`.
    """

    def __init__(self, config: LossConfig | None = None) -> None:
        super().__init__()
        self.config = config or LossConfig()

    def forward(self, output: Output, labels: Tensor) -> LossTerms:
        """Return the terms for `output`, logits `(N, K, h, w)`, and `labels`, int64 `(N, H, W)`."""
        logits, auxiliary = split_output(output)
        named = {"main": logits, **auxiliary}
        mined = [mined_cross_entropy(term, labels, self.config) for term in named.values()]
        sums, counts = zip(*mined, strict=True)
        return LossTerms(tuple(named), torch.stack(sums), torch.stack(counts))

    def total(self, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the total loss (scalar) and each term's mean, `(T,)`, 0 if no pixel was kept."""
        terms = sums / counts.clamp(min=1)
        return terms[0] + self.config.auxiliary_weight * terms[1:].sum(), terms


def split_output(output: Output) -> tuple[Tensor, dict[str, Tensor]]:
    """Split the output of a network into logits and auxiliary logits by name.

    `output` is a tensor of logits, or a pair of logits and auxiliary logits. The latter are a
    mapping by name, or a sequence, which gets the names "auxiliary1", "auxiliary2", ...

    Raises:
        TypeError: `output` has another form.
    """
    if isinstance(output, Tensor):
        return output, {}
    if isinstance(output, tuple | list) and len(output) == 2 and isinstance(output[0], Tensor):
        logits, auxiliary = output
        if isinstance(auxiliary, Mapping):
            return logits, dict(auxiliary)
        if isinstance(auxiliary, tuple | list):
            return logits, {f"auxiliary{i}": a for i, a in enumerate(auxiliary, start=1)}
    raise TypeError(
        f"a network returned {type(output).__name__}; it must return logits (N, K, h, w), "
        "or (logits, {name: auxiliary logits})"
    )


def mined_cross_entropy(
    logits: Tensor, labels: Tensor, config: LossConfig
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
        config: threshold and share.

    Returns:
        Two float32 scalars, sum and number of pixels; the sum has a gradient.
    """
    losses = upsampled_cross_entropy(logits, labels)
    valid = labels != IGNORE_INDEX
    with torch.no_grad():
        hardness = losses.masked_fill(~valid, -1).flatten(start_dim=1)
        threshold_loss = -math.log(config.threshold) if config.threshold > 0 else math.inf
        hard = hardness > threshold_loss
        if config.share > 0:
            k = max(1, round(config.share * hardness.shape[1]))
            kth = hardness.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
            hard |= hardness >= kth
        # Comparisons with NaN are false; without this, a diverged network would have a loss of 0.
        kept = (hard.view_as(valid) | losses.isnan()) & valid
    return torch.where(kept, losses, 0).sum(), kept.sum(dtype=torch.float32)
