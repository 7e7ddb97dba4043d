"""A custom loss that is the same for any number of workers."""

import torch
from torch import Tensor

from models import Loss
from models.losses import full_size


class Tversky(Loss):
    """`1 - mean_k TP_k / (TP_k + α FP_k + (1 - α) FN_k)` (Salehi et al., MLMI 2017)."""

    def __init__(self, alpha: float = 0.3) -> None:
        super().__init__()
        self.alpha = alpha

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return sums over the batch, `(3 K,)`: they add up over workers and parts of a batch."""
        probabilities = full_size(logits, labels).softmax(dim=1)
        valid = (labels != 255)[:, None]
        classes = torch.arange(logits.shape[1], device=labels.device)[:, None, None]
        members = labels[:, None] == classes
        sums = (probabilities * members, probabilities * (valid & ~members), members.float())
        return torch.cat([each.sum(dim=(0, 2, 3)) for each in sums])

    def value(self, statistics: Tensor) -> Tensor:
        """Return the loss, a scalar, from the sums over the whole batch."""
        hits, false, labeled = statistics.chunk(3)
        misses = labeled - hits
        index = hits / (hits + self.alpha * false + (1 - self.alpha) * misses + 1)
        return 1 - index.mean()
