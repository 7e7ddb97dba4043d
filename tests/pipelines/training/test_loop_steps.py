"""What a step of the training loop gives to the network, the optimizer and the average."""

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.dropout import ChannelDropout
from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.device_batches import TrainingBatch, prefetch_to_device
from pipelines.network.config import NetworkConfig
from pipelines.training import loop
from pipelines.training.config import OptimizerConfig, TrainingConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training

CPU = torch.device("cpu")


class Network(nn.Module):
    """A network that notes, for each batch it trains on, the dropout's keys and a random number."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = ChannelDropout(0.5, "features")
        self.classifier = nn.Conv2d(3, classes, 1)
        self.keys: list[list[int]] = []
        self.draws: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            assert self.dropout.keys is not None
            self.keys.append(self.dropout.keys.tolist())
            self.draws.append(torch.rand(()).item())
        return self.classifier(self.dropout(self.norm(images)))


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_module")
    module.__dict__["Network"] = Network
    monkeypatch.setitem(sys.modules, "own_module", module)


def trained(dataset: Path, rank: int = 0, seed: int = 0, **settings: Any) -> Training:
    """Return a training of two epochs of two steps, in two parts each, at its end."""
    training = Training(
        Experiment(
            data=DataConfig(crop=(16, 16), validation_split=None),
            model=NetworkConfig("own_module:Network"),
            training=TrainingConfig(
                **{"epochs": 2, "batch": 8, "accumulation": 2, "precision": "fp32", **settings}
            ),
            seed=seed,
        ),
        open_dataset(dataset),
        CPU,
    )
    training.group = replace(training.group, rank=rank)
    training.run(lambda report: None)
    return training


def parts_of(training: Training, epoch: int) -> list[TrainingBatch]:
    """Return the parts of the epoch's steps, in order."""
    return [*prefetch_to_device(training.batches.epoch(epoch, 0), training.augmentation, CPU)]


def test_dropout_gets_the_keys_of_the_samples_of_each_part(small_streets: Path) -> None:
    training = trained(small_streets)
    keys = [part.sample_keys.tolist() for epoch in (0, 1) for part in parts_of(training, epoch)]
    assert len(keys) == 8
    # Each step first computes the loss of the whole batch, then the gradient of each part.
    steps = [keys[start : start + 2] for start in range(0, 8, 2)]
    assert training.model.keys == [part for step in steps for part in (*step, *step)]


def test_random_numbers_of_the_network_differ_by_epoch_step_part_and_rank(
    small_streets: Path,
) -> None:
    by_rank = [trained(small_streets, rank).model.draws for rank in (0, 1)]
    for draws in by_rank:
        whole, again = [draws[i] for i in (0, 1, 4, 5)], [draws[i] for i in (2, 3, 6, 7)]
        assert whole == again
        assert len(draws) == 16
        assert len(set(draws)) == 8
    assert not set(by_rank[0]) & set(by_rank[1])
    assert trained(small_streets, seed=1).model.draws != by_rank[0]


def test_batch_norm_sees_each_part_of_an_accumulated_step_once(small_streets: Path) -> None:
    training = trained(small_streets, epochs=1, batch=14)
    mean, variance = torch.zeros(3), torch.ones(3)
    parts = parts_of(training, 0)
    assert len(parts) == 2
    for part in parts:
        pixels = part.images.transpose(0, 1).flatten(1)
        mean = 0.9 * mean + 0.1 * pixels.mean(dim=1)
        variance = 0.9 * variance + 0.1 * pixels.var(dim=1)
    norm = training.model.norm
    assert norm.num_batches_tracked == 2
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)


def test_average_counts_the_steps_of_all_epochs(
    small_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = []
    update = loop.WeightAverage.update

    def note(average: loop.WeightAverage, model: nn.Module, number: int) -> None:
        numbers.append(number)
        update(average, model, number)

    monkeypatch.setattr(loop.WeightAverage, "update", note)
    trained(small_streets, ema=0.9)
    assert numbers == [1, 2, 3, 4]


def test_groups_have_their_share_of_the_rate(small_streets: Path) -> None:
    optimizer = OptimizerConfig("sgd", rate_factors={"classifier.*": 0.5})
    training = trained(small_streets, optimizer=optimizer, learning_rate=0.08)
    # The last epoch of two has half of the base rate.
    rates = sorted({group["lr"] for group in training.optimizer.param_groups})
    assert rates == pytest.approx([0.02, 0.04])
