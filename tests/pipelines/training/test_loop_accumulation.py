"""Gradients accumulated over parts of a batch."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from models import LossConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.device_batches import prefetch_to_device
from pipelines.training.loop import Training
from tests.support.small_training import (
    CPU,
    WITHOUT_NORM,
    double_precision,
    run,
    small_experiment,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [LossConfig(), LossConfig(share=1), LossConfig(terms=("dice", "lovasz", "cross-entropy"))],
    ids=["mined", "plain", "sum"],
)
def test_accumulation_computes_the_whole_batch(small_streets: Path, loss: LossConfig) -> None:
    """Images have different numbers of labeled and of mined pixels."""
    results = {}
    for parts in (1, 2, 7):
        experiment = small_experiment(
            batch=14, accumulation=parts, loss=loss, learning_rate=1.0, gradient_clip=0.5
        )
        with double_precision():
            results[parts] = run(replace(experiment, model=WITHOUT_NORM), small_streets)
    history, weights = results.pop(1)
    for other_history, other_weights in results.values():
        for expected, actual in zip(history, other_history, strict=True):
            assert actual == pytest.approx(expected, rel=1e-12)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=1e-11, atol=1e-12)


def test_every_accumulated_step_has_a_whole_batch(small_streets: Path) -> None:
    """The epoch of 14 images ends with 6 of them in a batch of 8, filled up with 2 others."""
    losses = []
    for parts in (1, 4):
        experiment = small_experiment(epochs=1, batch=8, accumulation=parts, learning_rate=1.0)
        with double_precision():
            history, _ = run(replace(experiment, model=WITHOUT_NORM), small_streets)
        losses.append(history[0]["train/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


def test_loss_of_an_accumulated_step_is_the_mean_over_all_labeled_pixels(
    small_streets: Path,
) -> None:
    experiment = small_experiment(epochs=1, batch=14, accumulation=7, loss=LossConfig(share=1))
    experiment = replace(experiment, model=WITHOUT_NORM)
    training = Training(experiment, open_dataset(small_streets), CPU)
    parts = list(prefetch_to_device(training.batches.epoch(0, 0), training.augmentation, CPU))
    model = copy.deepcopy(training.model).train().double()
    outputs = [model(part.images.double()) for part in parts]
    labels = torch.cat([part.labels for part in parts])
    assert len({int((image != 255).sum()) for image in labels}) > 2
    expected = 0.0
    for logits in (
        torch.cat([main for main, _ in outputs]),
        torch.cat([auxiliary[0] for _, auxiliary in outputs]),
    ):
        size = (labels.shape[1], labels.shape[2])
        resized = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        expected += functional.cross_entropy(resized, labels, ignore_index=255).item()
    training.run(lambda report: None)
    assert training.history[0]["train/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_batch_norm_statistics_follow_each_part_once(small_streets: Path) -> None:
    experiment = small_experiment(epochs=1, batch=14, accumulation=2)
    training = Training(experiment, open_dataset(small_streets), CPU)
    training.run(lambda report: None)
    counters = [
        value
        for name, value in training.model.state_dict().items()
        if name.endswith("num_batches_tracked")
    ]
    assert counters
    assert all(counter == 2 for counter in counters)
