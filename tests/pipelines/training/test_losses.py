"""Losses are tried before the training."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class Rooted(Loss):
    """A loss of 0 without labels, with an infinite gradient."""

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        return ((labels != 255) * full_size(logits, labels).square().mean(dim=1)).sum().reshape(1)

    def value(self, statistics: Tensor) -> Tensor:
        return statistics[0].sqrt()


class RunningMean(nn.Module):
    """Divides by a running mean of its own values, in a buffer or an attribute."""

    def __init__(self, in_place: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))
        self.in_place = in_place

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels, ignore_index=255)
        mean = 0.5 * (self.mean + loss.detach())
        if self.in_place:
            self.mean.copy_(mean)
        else:
            self.mean = mean
        return loss / self.mean


class FirstBatch(nn.Module):
    """Divides by its value for the first batch."""

    first: Tensor | None = None

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels, ignore_index=255)
        self.first = loss.detach() if self.first is None else self.first
        return loss / self.first


class Scaled(nn.Module):
    """Learns a factor (Kendall et al., CVPR 2018)."""

    def __init__(self, trained: bool = True) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()), requires_grad=trained)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels, ignore_index=255)
        return torch.exp(-self.log_variance) * loss + self.log_variance


class Drawing(nn.Module):
    """Draws weights when it is built, fills a cache in the first call, and draws pixels."""

    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.rand(3))
        self.register_buffer("neighbors", torch.eye(3).to_sparse())
        self.register_buffer("cache", torch.zeros(()))
        self.calls = 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        self.cache.fill_(0.5)
        drawn = labels.masked_fill(torch.rand(labels.shape) < self.cache, 255)
        return F.cross_entropy(logits, drawn, self.weights, ignore_index=255)


def config_of(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], **arguments: Any
) -> LossConfig:
    """Return the configuration of a loss in a module of the user."""
    module = types.ModuleType("own")
    setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "own", module)
    return LossConfig(terms=(LossTermConfig(f"own:{kind.__name__}", arguments),))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Failing, r"loss own:Failing: it failed on a batch without labels \(RuntimeError: "),
        (Unguarded, "loss own:Unguarded: it is nan without labels, expected 0"),
        (Rooted, "loss own:Rooted: its gradient is nan without labels, expected 0"),
    ],
)
def test_losses_are_tried_without_labels(
    monkeypatch: pytest.MonkeyPatch, kind: type[Loss], message: str
) -> None:
    with pytest.raises(LossError, match=message):
        build_loss(config_of(monkeypatch, kind), FREQUENCIES)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (RunningMean, {}, r"a batch changed its buffer mean, which would differ between workers"),
        (RunningMean, {"in_place": False}, r"a batch changed its buffer mean, which would differ"),
        (FirstBatch, {}, r"it was 1 for a batch, and \S+ for the same one after others\. It must"),
        (Scaled, {}, r"its parameter log_variance would never be trained\. Trained parameters"),
    ],
)
def test_losses_with_a_state_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(LossError, match=f"^loss own:{kind.__name__}: {message}"):
        build_loss(config_of(monkeypatch, kind, **arguments), FREQUENCIES)


class Constant(nn.Module):
    """A constant without labels, which has no gradient."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels) if (labels != 255).all() else torch.zeros(())


def test_constants_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    build_loss(config_of(monkeypatch, Constant), FREQUENCIES)


def test_fixed_parameters_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    build_loss(config_of(monkeypatch, Scaled, trained=False), FREQUENCIES)


def test_trials_leave_no_trace_and_workers_draw_the_same_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        criterion = build_loss(config_of(monkeypatch, Drawing), FREQUENCIES)
        assert torch.equal(torch.random.get_rng_state(), state)
        built.append(criterion.losses[0].module)
    assert torch.equal(built[0].weights, built[1].weights)
    assert (built[0].calls, built[0].cache) == (0, 0)


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


def test_frequencies_are_fractions_of_the_labeled_pixels_of_the_split(cityscapes: Path) -> None:
    split = open_dataset(cityscapes).split("train")
    labels = np.concatenate([split.read(index)[1].ravel() for index in range(len(split))])
    assert (labels == 255).any()
    counts = np.bincount(labels[labels != 255], minlength=19)
    assert class_frequencies(split) == pytest.approx((counts / counts.sum()).tolist())


def test_split_without_labels_has_no_frequencies(cityscapes: Path) -> None:
    assert class_frequencies(open_dataset(cityscapes).split("test")) == [0.0] * 19
