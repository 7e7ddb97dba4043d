"""Each metric against an independent float64 reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torchmetrics.functional import classification as reference

from pipelines.evaluation.boundaries import BoundaryIoU, boundary_scores
from pipelines.evaluation.config import COUNTED, METRICS, MetricConfig
from pipelines.evaluation.measuring import build_metrics
from pipelines.evaluation.metrics import COUNT_METRICS, ClassMetric
from pipelines.evaluation.scores import Scores, ScoreState

seeds = st.integers(0, 2**32 - 1)


def images(seed: int, count: int = 3) -> tuple[Tensor, Tensor]:
    """Return probabilities, float32 (count, 4, 9, 11), and labels with ignored pixels; class 3 has
    no label."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count, 9, 11), generator=random)
    logits = torch.randn(count, 4, 9, 11, generator=random)
    logits.scatter_add_(1, labels[:, None], torch.full((count, 1, 9, 11), 1.5))
    labels[torch.rand(labels.shape, generator=random) < 0.2] = 255
    return logits.softmax(dim=1), labels


def scores_of(probabilities: Tensor, labels: Tensor, *metrics: MetricConfig) -> Scores:
    state = ScoreState(4, len(labels), build_metrics(metrics, 4))
    state.update(probabilities.argmax(1), labels, torch.arange(len(labels)), probabilities)
    return state.scores()


@settings(max_examples=40)
@given(seeds)
def test_metrics_of_counts_match_torchmetrics(seed: int) -> None:
    probabilities, labels = images(seed)
    counted = scores_of(probabilities, labels).counted
    predicted = probabilities.argmax(1)
    options = {"num_classes": 4, "ignore_index": 255}
    occurring = [k for k in range(4) if bool(((predicted == k) & (labels != 255)).any()) or k < 3]
    by_class = reference.multiclass_f1_score(predicted, labels, average="none", **options)
    assert counted["dice"] == pytest.approx(float(by_class[occurring].mean()))
    iou = reference.multiclass_jaccard_index(predicted, labels, average="none", **options)
    assert counted["miou"] == pytest.approx(float(iou[occurring].mean()))
    accuracy = reference.multiclass_accuracy(predicted, labels, average="micro", **options)
    assert counted["pixel_accuracy"] == pytest.approx(float(accuracy))
    accuracies = reference.multiclass_accuracy(predicted, labels, average="none", **options)
    assert counted["mean_accuracy"] == pytest.approx(float(accuracies[:3].mean()))
    weights = torch.stack([(labels == k).sum() for k in range(4)]) / (labels != 255).sum()
    assert counted["frequency_weighted_iou"] == pytest.approx(float((weights * iou).sum()))


@settings(max_examples=40)
@given(seeds, st.integers(1, 20))
def test_calibration_error_matches_torchmetrics(seed: int, bins: int) -> None:
    probabilities, labels = images(seed)
    config = MetricConfig("calibration_error", {"bins": bins})
    (measured,) = scores_of(probabilities, labels, config).measured
    expected = reference.multiclass_calibration_error(
        probabilities.double(), labels, num_classes=4, n_bins=bins, norm="l1", ignore_index=255
    )
    assert measured.score == pytest.approx(float(expected), abs=1e-6)


def eroded_boundary(mask: np.ndarray, ignored: np.ndarray, pixels: int) -> np.ndarray:
    """Return the pixels of a mask that an erosion removes, as the published code defines them."""
    inner = ndimage.binary_erosion(mask | ignored, np.ones((3, 3)), pixels, border_value=0)
    return mask & ~inner


@pytest.mark.slow
@given(seeds, st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_boundary_iou_matches_scipy(seed: int, distance: float) -> None:
    probabilities, labels = images(seed)
    config = MetricConfig("boundary_iou", {"distance": distance})
    (measured,) = scores_of(probabilities, labels, config).measured
    ignored = (labels == 255).numpy()
    pixels = max(1, round(distance * math.hypot(9, 11)))
    assert measured.class_scores is not None
    for k in range(4):
        intersection = union = 0
        for image, prediction in enumerate(probabilities.argmax(1).numpy()):
            ours, true = (
                eroded_boundary((classes == k) & ~ignored[image], ignored[image], pixels)
                for classes in (prediction, labels[image].numpy())
            )
            intersection, union = intersection + (ours & true).sum(), union + (ours | true).sum()
        expected = intersection / union if union else math.nan
        assert measured.class_scores[k] == pytest.approx(expected, nan_ok=True)


def test_boundary_iou_sees_the_contour_only() -> None:
    label = torch.zeros(40, 40, dtype=torch.int64)
    label[10:30, 10:30] = 1
    smaller = torch.zeros_like(label)
    smaller[12:28, 12:28] = 1
    metric = BoundaryIoU(2, distance=2 / math.hypot(40, 40))
    sums = metric.statistics(smaller, label).numpy()
    assert metric.class_scores(sums)[1] == 0, "rings of two pixels, next to each other"
    assert metric.class_scores(metric.statistics(label, label).numpy()).tolist() == [1, 1]


def test_boundary_iou_reaches_a_pixel_at_least() -> None:
    label = torch.zeros(8, 8, dtype=torch.int64)
    label[:, 4:] = 1
    metric = BoundaryIoU(2, distance=0.001)
    assert metric.class_scores(metric.statistics(label, label).numpy()).tolist() == [1, 1]


def naive_boundary(predicted: np.ndarray, label: np.ndarray, k: int, tolerance: int) -> float:
    height, width = label.shape
    predicted = np.where(label == 255, 255, predicted)

    def boundary(classes: np.ndarray) -> set[tuple[int, int]]:
        predicted_boundary = set()
        for row in range(height):
            for column in range(width):
                for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    y, x = row + down, column + right
                    if not (0 <= y < height and 0 <= x < width) or classes[row, column] != k:
                        continue
                    if classes[y, x] not in (k, 255):
                        predicted_boundary.add((row, column))
        return predicted_boundary

    def near(points: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        hits = [any(max(abs(y - b), abs(x - a)) <= tolerance for b, a in others) for y, x in points]
        return sum(hits) / len(hits) if hits else 0.0

    predicted_boundary, true_boundary = boundary(predicted), boundary(label)
    if not predicted_boundary and not true_boundary:
        return math.nan
    precision, recall = (
        near(predicted_boundary, true_boundary),
        near(true_boundary, predicted_boundary),
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_boundary_score_matches_a_naive_loop(
    seed: int, tolerance: int, height: int, width: int
) -> None:
    random = np.random.default_rng(seed)
    label = random.choice(np.array([0, 0, 0, 1, 2, 255]), (height, width))
    predicted = np.where(random.random((height, width)) < 0.8, label, 0)
    predicted[predicted == 255] = 1
    scores = boundary_scores(torch.from_numpy(predicted), torch.from_numpy(label), 4, tolerance)
    for k in range(4):
        expected = naive_boundary(predicted, label, k, tolerance)
        assert scores[k].item() == pytest.approx(expected, nan_ok=True)


def test_shifted_edge_matches_within_the_tolerance() -> None:
    label = torch.zeros(8, 12, dtype=torch.int64)
    label[:, 6:] = 1
    shifted = label.roll(2, dims=1)
    shifted[:, :2] = 0
    assert boundary_scores(label, label, 2, 1).tolist() == [1, 1]
    assert boundary_scores(shifted, label, 2, 1).tolist() == [0, 0]
    assert boundary_scores(shifted, label, 2, 2).tolist() == [1, 1]


@settings(max_examples=40)
@given(seeds, st.integers(1, 3))
def test_metric_of_the_examples_matches_scipy(seed: int, width: int) -> None:
    probabilities, labels = images(seed)
    config = MetricConfig("examples.trimap:TrimapIoU", {"width": width})
    (measured,) = scores_of(probabilities, labels, config).measured
    counts = np.zeros((4, 2))
    for prediction, label in zip(probabilities.argmax(1).numpy(), labels.numpy(), strict=True):
        highest, lowest = (
            function(np.where(label == 255, outside, label), 2 * width + 1, mode="nearest")
            for function, outside in ((ndimage.maximum_filter, -1), (ndimage.minimum_filter, 256))
        )
        band = (label != 255) & (highest != lowest)
        for k in range(4):
            ours, true = band & (prediction == k), band & (label == k)
            counts[k] += (ours & true).sum(), (ours | true).sum()
    expected = counts[:, 0] / np.where(counts[:, 1], counts[:, 1], np.nan)
    np.testing.assert_allclose(measured.class_scores, expected)


@pytest.mark.slow
@settings(max_examples=20)
@given(seeds, st.permutations(range(5)), st.integers(0, 5))
def test_scores_follow_from_the_sums_over_images_in_any_division(
    seed: int, order: list[int], first: int
) -> None:
    probabilities, labels = images(seed, 5)
    configs = [MetricConfig(name) for name in METRICS.built_in]
    states = [ScoreState(4, 5, build_metrics(configs, 4)) for _ in range(2)]
    for state, part in zip(states, (order[:first], order[first:]), strict=True):
        chosen = torch.tensor(part, dtype=torch.int64)
        state.update(probabilities.argmax(1)[chosen], labels[chosen], chosen, probabilities[chosen])
    states[0].merge_state(states[1])
    whole = scores_of(probabilities, labels, *configs)
    names = ["a", "b", "c", "d"]
    assert states[0].scores().metrics(names) == whole.metrics(names)


@pytest.mark.parametrize("name", [*COUNTED, *METRICS.built_in])
def test_images_without_labels_have_no_score(name: str) -> None:
    probabilities, labels = images(0)
    configs = () if name in COUNTED else (MetricConfig(name),)
    scores = scores_of(probabilities, torch.full_like(labels, 255), *configs)
    assert name not in scores.metrics(["a", "b", "c", "d"])


def test_metrics_of_counts_are_those_that_the_configuration_names() -> None:
    assert tuple(COUNT_METRICS) == COUNTED
    assert isinstance(COUNT_METRICS["dice"], ClassMetric)
