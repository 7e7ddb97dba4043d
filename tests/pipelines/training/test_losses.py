"""Losses are tried before the training."""

import sys
import types

import pytest
from torch import Tensor

from models import Loss, LossConfig, LossTermConfig
from models.config import LOSSES
from models.losses import full_size
from pipelines.training.losses import LossError, build_loss

FREQUENCIES = [0.4, 0.1, 0.5]


class Unguarded(Loss):
    """A mean over the labeled pixels, NaN without any."""

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        valid = labels != 255
        return (full_size(logits, labels).mean(dim=1) * valid).sum().expand(2) * valid.any()

    def value(self, statistics: Tensor) -> Tensor:
        return statistics[0] / statistics[1]


class Failing(Loss):
    """A loss that needs a labeled pixel."""

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        largest = labels[labels != 255].max()
        return logits.sum().reshape(1) * largest

    def value(self, statistics: Tensor) -> Tensor:
        return statistics[0]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Failing, r"loss own:Failing: it failed on a batch without labels \(RuntimeError: "),
        (Unguarded, "loss own:Unguarded: it is nan without labels, expected 0"),
    ],
)
def test_losses_are_tried_without_labels(
    monkeypatch: pytest.MonkeyPatch, kind: type[Loss], message: str
) -> None:
    module = types.ModuleType("own")
    setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "own", module)
    config = LossConfig(terms=(LossTermConfig(f"own:{kind.__name__}"),))
    with pytest.raises(LossError, match=message):
        build_loss(config, FREQUENCIES)


def test_losses_of_this_package_and_of_torch_are_accepted() -> None:
    names = [LossTermConfig(name) for name in LOSSES.built_in]
    torchs = LossTermConfig("torch.nn:CrossEntropyLoss", {"ignore_index": 255})
    build_loss(LossConfig(terms=(*names, torchs)), FREQUENCIES)
