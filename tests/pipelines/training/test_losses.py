"""Losses are tried before the training."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import FENetConfig, Loss, LossConfig, LossTermConfig
from models.config import LOSSES
from models.losses import full_size
from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training
from pipelines.training.losses import (
    LossError,
    build_loss,
    class_frequencies,
    image_class_frequencies,
)

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


def test_frequencies_of_all_images_and_of_those_that_contain_the_class() -> None:
    pixels = np.array([[10, 0, 10, 0], [0, 0, 40, 0], [5, 15, 0, 0], [0, 0, 0, 0]])
    split: Any = types.SimpleNamespace(class_pixels=pixels)
    assert class_frequencies(split) == [15 / 80, 15 / 80, 50 / 80, 0]
    assert image_class_frequencies(split) == [15 / 40, 15 / 20, 50 / 60, 0]


def test_training_passes_both_frequencies_of_the_training_split(small_streets: Path) -> None:
    weights = []
    for name in ("median-frequency", "log-frequency"):
        term = LossTermConfig("cross-entropy", {"class_weights": name})
        training = TrainingConfig(batch=2, precision="fp32", loss=LossConfig(terms=(term,)))
        model = FENetConfig(backbone="dfnet1", channels=8)
        experiment = Experiment(data=DataConfig(crop=(32, 48)), model=model, training=training)
        run = Training(experiment, open_dataset(small_streets), torch.device("cpu"))
        (loss,) = run.criterion.each_loss()
        weights.append(loss.get_buffer("class_weights").numpy())
    pixels = open_dataset(small_streets).split("train").class_pixels.astype(np.float64)
    of_images = pixels.sum(0) / (pixels.sum(1, keepdims=True) * (pixels > 0)).sum(0)
    np.testing.assert_allclose(weights[0], np.median(of_images) / of_images)
    np.testing.assert_allclose(weights[1], 1 / np.log(1.02 + pixels.sum(0) / pixels.sum()))
