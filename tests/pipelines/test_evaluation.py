"""Scores against a naive loop, and which images count."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipelines.dataset import open_dataset
from pipelines.evaluation import EvaluationConfig, Scores, evaluate, predict
from pipelines.loading import EvaluationBatches
from pipelines.precision import Numerics

CPU = Numerics.choose(torch.device("cpu"), "fp32")


class BrightnessClassifier(nn.Module):
    """Class by the normalised red channel's value, at half the resolution."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(-2, 2, classes))

    def forward(self, images: Tensor) -> Tensor:
        red = nn.functional.avg_pool2d(images[:, :1], 2)
        return -(red - self.levels.view(1, -1, 1, 1)).square()


class UnevenImages:
    """A split of images of three sizes, with ignored pixels."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        sizes = [(8, 12), (9, 11), (8, 12), (16, 6), (8, 12), (9, 11), (8, 12)]
        self.samples = [
            (
                random.integers(0, 256, (*size, 3), np.uint8),
                random.choice(np.array([0, 1, 2, 3, 255], np.uint8), size),
            )
            for size in sizes
        ]
        self.identifiers = [f"image {index}" for index in range(len(sizes))]
        self.heights = np.array([size[0] for size in sizes])
        self.widths = np.array([size[1] for size in sizes])

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.samples[index]


def naive_confusion(split: UnevenImages, model: nn.Module, classes: int) -> np.ndarray:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    confusion = np.zeros((classes, classes), np.int64)
    for image, label in split.samples:
        normalised = torch.from_numpy(((image / 255 - mean) / std).transpose(2, 0, 1)).float()
        logits = nn.functional.interpolate(
            model(normalised[None]), label.shape, mode="bilinear", align_corners=False
        )
        prediction = logits[0].argmax(0).numpy()
        for row in range(label.shape[0]):
            for column in range(label.shape[1]):
                if label[row, column] != 255:
                    confusion[label[row, column], prediction[row, column]] += 1
    return confusion


@pytest.mark.parametrize("batch", [1, 3])
def test_confusion_equals_a_naive_loop(batch: int) -> None:
    split, model = UnevenImages(), BrightnessClassifier(4)
    scores = evaluate(model, EvaluationBatches(split, batch), 4, CPU)
    assert np.array_equal(scores.confusion.numpy(), naive_confusion(split, model, 4))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_image_counts_once(world: int) -> None:
    split, model = UnevenImages(), BrightnessClassifier(4)
    parts = [
        evaluate(model, EvaluationBatches(split, 2, rank, world), 4, CPU).confusion
        for rank in range(world)
    ]
    assert np.array_equal(sum(parts).numpy(), naive_confusion(split, model, 4))


def test_evaluation_leaves_the_mode_alone(small_streets: Path) -> None:
    split = open_dataset(small_streets).split("val")
    model = BrightnessClassifier(10).train()
    evaluate(model, EvaluationBatches(split, 2), 10, CPU)
    assert model.training


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 9), min_size=n, max_size=n), min_size=n, max_size=n
        )
    )
)
def test_figures_follow_their_definitions(rows: list[list[int]]) -> None:
    scores = Scores(torch.tensor(rows))
    ious = []
    for k in range(len(rows)):
        union = sum(rows[k]) + sum(row[k] for row in rows) - rows[k][k]
        expected = rows[k][k] / union if union else math.nan
        assert scores.iou[k].item() == pytest.approx(expected, nan_ok=True)
        if union:
            ious.append(expected)
    pixels = sum(map(sum, rows))
    if pixels:
        assert scores.miou == pytest.approx(sum(ious) / len(ious))
        right = sum(rows[k][k] for k in range(len(rows)))
        assert scores.pixel_accuracy == pytest.approx(right / pixels)


def test_prediction_has_the_size_asked_for() -> None:
    model = BrightnessClassifier(3)
    assert predict(model, torch.zeros(2, 3, 8, 8), (13, 5)).shape == (2, 13, 5)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="batch must be at least 1, received 0"):
        EvaluationConfig(batch=0)
    with pytest.raises(ValueError, match="every must be at least 1, received -1"):
        EvaluationConfig(every=-1)
