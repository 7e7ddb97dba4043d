"""Metrics against their definitions, per-image counts, and one state over two ranks."""

import math
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines.evaluation.config import MetricConfig
from pipelines.evaluation.counts import ImageCounts, write_counts
from pipelines.evaluation.measuring import build_metrics
from pipelines.evaluation.scores import Scores, ScoreState
from tests.support.workers import join_group, run_workers

matrices = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n), min_size=n, max_size=n)
)


def test_metrics_of_a_known_matrix() -> None:
    """Class 0 has 6 pixels, 4 of them correct and 2 predicted as class 1; class 1 has 2 pixels,
    both correct; class 2 does not occur."""
    scores = Scores(torch.tensor([[4, 2, 0], [0, 2, 0], [0, 0, 0]]))
    assert scores.iou[:2].tolist() == [4 / 6, 2 / 4]
    assert math.isnan(scores.iou[2])
    assert scores.miou == (4 / 6 + 2 / 4) / 2
    assert scores.counted["dice"] == pytest.approx((8 / 10 + 4 / 6) / 2)
    assert scores.counted["pixel_accuracy"] == 6 / 8
    assert scores.counted["mean_accuracy"] == (4 / 6 + 1) / 2
    assert scores.counted["frequency_weighted_iou"] == pytest.approx(6 / 8 * 4 / 6 + 2 / 8 * 2 / 4)
    assert scores.metrics(["a", "b", "c"]).keys() == {
        "miou",
        "dice",
        "pixel_accuracy",
        "mean_accuracy",
        "frequency_weighted_iou",
        "iou/a",
        "iou/b",
    }


@given(matrices)
def test_metrics_match_their_definitions(rows: list[list[int]]) -> None:
    scores, n = Scores(torch.tensor(rows)), len(rows)
    label = [sum(row) for row in rows]
    union = [label[k] + sum(row[k] for row in rows) - rows[k][k] for k in range(n)]
    ious = {k: rows[k][k] / union[k] for k in range(n) if union[k]}
    if ious:
        assert scores.miou == pytest.approx(sum(ious.values()) / len(ious))
    if sum(label):
        recalls = [rows[k][k] / label[k] for k in range(n) if label[k]]
        assert scores.counted["mean_accuracy"] == pytest.approx(sum(recalls) / len(recalls))
        weighted = sum(label[k] / sum(label) * iou for k, iou in ious.items())
        assert scores.counted["frequency_weighted_iou"] == pytest.approx(weighted)


def example(images: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 4, (images, 6, 7), generator=generator)
    label = torch.randint(0, 5, (images, 6, 7), generator=generator)
    label[label == 4] = 255
    return prediction, label


METRICS = (
    MetricConfig("boundary_f", {"tolerance": 2}),
    MetricConfig("boundary_iou"),
    MetricConfig("calibration_error"),
)


def filled_state(rows: slice) -> ScoreState:
    prediction, label = example()
    probabilities = torch.rand((3, 4, 6, 7), generator=torch.Generator().manual_seed(1))
    state = ScoreState(4, 3, build_metrics(METRICS, 4))
    state.update(prediction[rows], label[rows], torch.arange(3)[rows], probabilities[rows])
    return state


def parts_of(scores: Scores) -> list[Tensor]:
    assert scores.images is not None
    statistics = [torch.from_numpy(each.statistics) for each in scores.measured]
    assert len(statistics) == len(METRICS)
    return [scores.confusion, scores.images.counts, scores.images.positions, *statistics]


def test_per_image_counts_sum_to_the_confusion_matrix() -> None:
    prediction, label = example()
    scores = filled_state(slice(None)).scores()
    assert scores.images is not None
    assert scores.images.positions.tolist() == [0, 1, 2]
    for image in range(3):
        valid = label[image] != 255
        for k in range(4):
            is_k, predicted_k = (label[image] == k), (prediction[image] == k) & valid
            true = int((is_k & predicted_k).sum())
            expected = [true, int(predicted_k.sum()) - true, int(is_k.sum()) - true]
            assert scores.images.counts[image, k].tolist() == expected
    matrix = scores.confusion
    total = scores.images.counts.sum(dim=0)
    assert torch.equal(total[:, 0], matrix.diagonal())
    assert torch.equal(total[:, 1], matrix.sum(0) - matrix.diagonal())
    assert torch.equal(total[:, 2], matrix.sum(1) - matrix.diagonal())


def test_one_class_and_one_image_keep_all_dimensions() -> None:
    state = ScoreState(1, 1)
    state.update(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long(), torch.zeros(1).long())
    scores = state.scores()
    assert scores.confusion.tolist() == [[4]]
    assert scores.images is not None
    assert scores.images.counts.tolist() == [[[4, 0, 0]]]


def test_repeated_images_and_unknown_classes_are_rejected() -> None:
    prediction, label = example()
    state = ScoreState(4, 3)
    state.update(prediction, label, torch.arange(3))
    state.update(prediction[:1], label[:1], torch.tensor([2]))
    with pytest.raises(RuntimeError, match="0 images were not counted, and 1 more than once"):
        state.scores()
    with pytest.raises(ValueError, match="a label contains class 7, but the 4 classes are 0 to 3"):
        state.update(prediction[:1], torch.full((1, 6, 7), 7), torch.tensor([0]))


def test_counts_are_written_as_arrow(tmp_path: Path) -> None:
    counts = torch.arange(12).reshape(2, 2, 3)
    images = ImageCounts(torch.tensor([0, 2]), counts)
    write_counts(
        tmp_path / "counts.arrow", images, ["a", "b", "c"], ["road", "sky"], ["x", "y", None]
    )
    with pa.memory_map(str(tmp_path / "counts.arrow")) as file:
        rows = pa.ipc.open_file(file).read_all().to_pylist()
    assert [(row["identifier"], row["class"]) for row in rows] == [
        ("a", "road"),
        ("a", "sky"),
        ("c", "road"),
        ("c", "sky"),
    ]
    assert rows[0]["group"] == "x"
    assert rows[2] == {
        "identifier": "c",
        "group": None,
        "class": "road",
        "tp": 6,
        "fp": 7,
        "fn": 8,
    }


def _worker(rank: int, out: Path) -> None:
    torch.set_num_threads(1)
    join_group(rank, 2, out)
    # All images on one rank, none on the other.
    scores = filled_state(slice(None) if rank == 0 else slice(0)).scores()
    torch.save(parts_of(scores), out / f"{rank}.pt")


@pytest.mark.slow
def test_two_ranks_compute_one_score(tmp_path: Path) -> None:
    run_workers(_worker, (tmp_path,), 2)
    expected = parts_of(filled_state(slice(None)).scores())
    for rank in range(2):
        for received, value in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            assert torch.equal(received, value)
