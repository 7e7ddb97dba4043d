"""Evaluation scores against a naive loop, and per-image counting."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipelines.data.dataset import open_dataset
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.loading import EvaluationBatches
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.evaluate import count_pixels, evaluate
from pipelines.evaluation.inference import predict, predict_image
from pipelines.evaluation.scores import Scores, ScoreState
from pipelines.network.precision import Numerics

CPU = Numerics.choose(torch.device("cpu"), "fp32")


class BrightnessClassifier(nn.Module):
    """Classify by the normalized red channel at half the resolution."""

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
        self.image_format = RGB

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.samples[index]


def naive_confusion(split: UnevenImages, model: nn.Module, classes: int) -> np.ndarray:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    confusion = np.zeros((classes, classes), np.int64)
    for image, label in split.samples:
        normalized = torch.from_numpy(((image / 255 - mean) / std).transpose(2, 0, 1)).float()
        logits = nn.functional.interpolate(
            model(normalized[None]), label.shape, mode="bilinear", align_corners=False
        )
        prediction = logits[0].argmax(0).numpy()
        for row in range(label.shape[0]):
            for column in range(label.shape[1]):
                if label[row, column] != 255:
                    confusion[label[row, column], prediction[row, column]] += 1
    return confusion


@pytest.mark.parametrize("batch", [1, 3])
def test_confusion_matches_a_naive_loop(batch: int) -> None:
    split, model = UnevenImages(), BrightnessClassifier(4)
    scores = evaluate(model, EvaluationBatches(split, batch), 4, CPU)
    assert np.array_equal(scores.confusion.numpy(), naive_confusion(split, model, 4))


def count_on_ranks(model: nn.Module, split: UnevenImages, world: int) -> ScoreState:
    """Return the merged counts of `world` ranks."""
    first, *others = (
        count_pixels(model, EvaluationBatches(split, 2, rank, world), 4, CPU)
        for rank in range(world)
    )
    for other in others:
        first.merge_state(other)
    return first


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_image_is_counted_once(world: int) -> None:
    split, model = UnevenImages(), BrightnessClassifier(4)
    scores = count_on_ranks(model, split, world).scores()
    assert np.array_equal(scores.confusion.numpy(), naive_confusion(split, model, 4))


def test_images_are_normalized_as_in_training() -> None:
    model, split = BrightnessClassifier(4), UnevenImages()
    trained = ImageFormat(mean=(0.1, 0.1, 0.1), std=(0.5, 0.5, 0.5))
    batches = EvaluationBatches(split, 2)
    state = count_pixels(model, batches, 4, CPU, image_format=trained)
    other = evaluate(model, batches, 4, CPU).confusion
    split.image_format = trained
    expected = evaluate(model, EvaluationBatches(split, 2), 4, CPU).confusion
    assert not torch.equal(other, expected)
    assert torch.equal(state.scores().confusion, expected)


def test_uncounted_images_are_an_error() -> None:
    batches = EvaluationBatches(UnevenImages(), 2, rank=1, world=3)
    with pytest.raises(RuntimeError, match=r"^5 images were not counted, and 0 more than once"):
        evaluate(BrightnessClassifier(4), batches, 4, CPU)


def test_evaluation_restores_training_mode(small_streets: Path) -> None:
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
def test_metrics_match_their_definitions(rows: list[list[int]]) -> None:
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
        correct = sum(rows[k][k] for k in range(len(rows)))
        assert scores.counted["pixel_accuracy"] == pytest.approx(correct / pixels)


def test_prediction_has_the_requested_size() -> None:
    model = BrightnessClassifier(3)
    assert predict(model, torch.zeros(2, 3, 8, 8), (13, 5)).shape == (2, 13, 5)


def test_invalid_settings_are_rejected() -> None:
    with pytest.raises(ValueError, match="batch must be at least 1, received 0"):
        EvaluationConfig(batch=0)
    with pytest.raises(ValueError, match="every must be at least 1, received -1"):
        EvaluationConfig(every=-1)
    with pytest.raises(ValueError, match="scales must be different factors"):
        EvaluationConfig(scales=())


def test_per_image_counts_keep_the_order_of_the_split() -> None:
    split, model = UnevenImages(), BrightnessClassifier(4)
    for world in (1, 3):
        images = count_on_ranks(model, split, world).scores().images
        assert images is not None
        assert images.positions.tolist() == list(range(len(split)))
        for index in range(len(split)):
            single_image = UnevenImages()
            single_image.samples = [split.samples[index]]
            matrix = naive_confusion(single_image, model, 4)
            true = matrix.diagonal()
            expected = np.stack([true, matrix.sum(0) - true, matrix.sum(1) - true], axis=1)
            assert np.array_equal(images.counts[index].numpy(), expected)


def test_evaluation_applies_inference_protocol_and_metrics() -> None:
    split, model = UnevenImages(), BrightnessClassifier(4)
    config = EvaluationConfig(scales=(0.5, 1.5), flip=True, window=(6, 6), metrics=("boundary_f",))
    progress: list[int] = []
    scores = evaluate(model, EvaluationBatches(split, 3), 4, CPU, config)
    count_pixels(model, EvaluationBatches(split, 3), 4, CPU, config, progress.append)
    assert sum(progress) == len(split)
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    for image, label in split.samples:
        prediction = predict_image(model, torch.from_numpy(image), CPU, config)
        for row in range(4):
            for column in range(4):
                hits = (torch.from_numpy(label) == row) & (prediction == column)
                confusion[row, column] += hits.sum()
    assert torch.equal(scores.confusion, confusion)
    assert scores.confusion.tolist() != naive_confusion(split, model, 4).tolist()
    assert [each.key for each in scores.measured] == ["boundary_f"]
    assert evaluate(model, EvaluationBatches(split, 3), 4, CPU).measured == ()


def test_unknown_class_in_a_label_is_reported() -> None:
    split = UnevenImages()
    with pytest.raises(ValueError, match="a label contains class 3, but the 3 classes are 0 to 2"):
        evaluate(BrightnessClassifier(3), EvaluationBatches(split, 1), 3, CPU)


def test_scores_do_not_depend_on_the_batch_size() -> None:
    """A network whose result depends on the number of images, as rounding in convolutions does."""

    class Counting(BrightnessClassifier):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * (1 if len(images) == 1 else -1)

    split, model = UnevenImages(), Counting(4)
    scores = [evaluate(model, EvaluationBatches(split, batch), 4, CPU) for batch in (1, 3, 7)]
    for other in scores[1:]:
        assert torch.equal(other.confusion, scores[0].confusion)
    assert np.array_equal(scores[0].confusion.numpy(), naive_confusion(split, model, 4))
