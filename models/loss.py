"""Cross entropy with online hard example mining, and the total loss: equation (5)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import resize

#: What a network returns in training: logits, or logits and auxiliary logits, named or in order.
Output = Tensor | tuple[Tensor, Mapping[str, Tensor] | Sequence[Tensor]]


@dataclass(frozen=True)
class LossConfig:
    """How pixels are mined and terms weighed.

    Attributes:
        threshold: a pixel counts when its class has less than this probability.
        share: this part of the crop's pixels counts in any case, the hardest of each image;
            1 is plain cross entropy.
        auxiliary_weight: λ of equation (5).
        ignore_index: the label of pixels that never count.
    """

    threshold: float = 0.7
    share: float = 0.05
    auxiliary_weight: float = 1.0
    ignore_index: int = 255

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; a probability lies in 0 ... 1")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; a part of the pixels lies in 0 ... 1")
        if self.threshold == 0 and self.share == 0:
            raise ValueError("threshold and share are both 0: no pixel would ever count")
        if not (math.isfinite(self.auxiliary_weight) and self.auxiliary_weight >= 0):
            raise ValueError(f"auxiliary_weight is {self.auxiliary_weight}; it must be 0 or more")


class LossTerms(NamedTuple):
    """What one worker adds to each term: the main one first, then one an auxiliary head.

    Attributes:
        names: "main", then those of the auxiliary heads, T in all.
        sums: float32 `(T,)`, cross entropy summed over the kept pixels, with gradient.
        counts: float32 `(T,)`, how many pixels were kept, without gradient.
    """

    names: tuple[str, ...]
    sums: Tensor
    counts: Tensor


class SegmentationLoss(nn.Module):
    """Equation (5): `L = L_p + λ Σ_i L_si`, every term mined cross entropy.

    A call gives sums and counts rather than means, so that data-parallel workers can add both up
    before `total` divides: the loss is then the same however the batch is spread.

    Logits that are not of the labels' size are upsampled here, term by term: auxiliary logits stay
    small until they are used, which saves one full-size copy a head.
    """

    def __init__(self, config: LossConfig | None = None) -> None:
        super().__init__()
        self.config = config or LossConfig()

    def forward(self, output: Output, labels: Tensor) -> LossTerms:
        """The terms for `output` (logits `(N, K, h, w)`) and `labels` int64 `(N, H, W)`."""
        logits, auxiliary = split_output(output)
        named = {"main": logits, **auxiliary}
        mined = [mined_cross_entropy(term, labels, self.config) for term in named.values()]
        sums, counts = zip(*mined, strict=True)
        return LossTerms(tuple(named), torch.stack(sums), torch.stack(counts))

    def total(self, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The total loss (scalar) and the mean of each term `(T,)`; a term without pixels is 0."""
        terms = sums / counts.clamp(min=1)
        return terms[0] + self.config.auxiliary_weight * terms[1:].sum(), terms


def split_output(output: Output) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and auxiliary logits by name, from whatever form a network returns them in.

    A tensor is the logits; of a pair, the second is a mapping from names, or a sequence, whose
    members are then called "auxiliary1", "auxiliary2", ...

    Raises:
        TypeError: anything else.
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
    """Sum of the cross entropy over each image's hard pixels, and their number.

    Per image (Shrivastava et al., CVPR 2016, in the form of the paper's public relatives): a valid
    pixel is kept when the probability `p` of its class is below `threshold`, or among the k
    smallest of the image's valid pixels, `k = share * H * W` rounded (all of them where fewer are
    valid; ties with the k-th are kept, so that nothing depends on an order). That is the relatives'
    "below the larger of threshold and k-th smallest" with the k-th pixel itself included. Losses
    `-log p` order pixels as `p` does, in float32 whatever the dtype of the logits. No shape depends
    on data, nothing is read back to the host.

    Args:
        logits: `(N, K, h, w)`, upsampled bilinearly to the labels' size where it differs.
        labels: int64 `(N, H, W)`, classes 0 ... K - 1 or `config.ignore_index`.
        config: threshold, share, ignore_index.

    Returns:
        Two float32 scalars; the first has a gradient.
    """
    logits = resize(logits.float(), labels)
    losses = F.cross_entropy(logits, labels, ignore_index=config.ignore_index, reduction="none")
    valid = labels != config.ignore_index
    with torch.no_grad():
        hardness = losses.masked_fill(~valid, -1).flatten(start_dim=1)
        easiest_below = -math.log(config.threshold) if config.threshold > 0 else math.inf
        hard = hardness > easiest_below
        hardest = round(config.share * hardness.shape[1])
        if hardest > 0:
            kth = hardness.topk(hardest, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
            hard |= hardness >= kth
        # NaN compares with nothing; left out, a diverged network would have a loss of 0.
        kept = (hard.view_as(valid) | losses.isnan()) & valid
    return torch.where(kept, losses, 0).sum(), kept.sum(dtype=torch.float32)
