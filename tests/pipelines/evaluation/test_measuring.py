"""Own metrics: what they get, and what is checked before they are used."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.evaluation.config import EvaluationConfig, MetricConfig
from pipelines.evaluation.counts import ImageCounts
from pipelines.evaluation.measuring import MetricError, build_metrics
from pipelines.evaluation.metrics import Measured
from pipelines.evaluation.statistics_file import STATISTICS_FILE, read_statistics, write_statistics
from tests.support.own_metric import WRONG

OWN = f"""{WRONG}
import numpy as np
from pipelines.evaluation.metrics import ClassMetric

class Brier(Metric):
    higher_is_better = False

    def __init__(self, classes):
        self.classes = classes

    def statistics(self, prediction, labels, probabilities):
        valid = labels != 255
        one_hot = torch.nn.functional.one_hot(labels[valid], self.classes)
        return torch.stack([(probabilities[:, valid].T.double() - one_hot).square().sum(),
                            valid.sum().double()])

    def score(self, sums):
        return sums[..., 0] / np.maximum(sums[..., 1], 1)

class Single(Wrong):
    def statistics(self, prediction, labels):
        return super().statistics(prediction, labels).float()

class Uneven(Wrong):
    def statistics(self, prediction, labels):
        return (labels[labels != 255] + 1).double()

class Endless(Wrong):
    def statistics(self, prediction, labels):
        wrong, pixels = super().statistics(prediction, labels)
        return torch.stack([wrong / pixels, pixels])

class Failing(Wrong):
    def statistics(self, prediction, labels):
        return prediction[10**6]

class FirstOnly(Wrong):
    def score(self, sums):
        return sums[0] / sums[1]

class Mixed(Wrong):
    def score(self, sums):
        return sums[..., 0] / sums.max()

class Scalar(ClassMetric, Wrong):
    def class_scores(self, sums):
        return sums[..., 0]

class Weighted(ClassMetric, Wrong):
    def class_scores(self, sums):
        return sums[..., :1].repeat(3, axis=-1)

    def score(self, sums):
        return self.class_scores(sums)[..., 0]

class Broken(Wrong):
    def __init__(self):
        raise RuntimeError("no")

class Changing(Wrong):
    def statistics(self, prediction, labels):
        labels[labels == 255] = 0
        return super().statistics(prediction, labels)

class Counting(Wrong):
    def statistics(self, prediction, labels):
        self.factor += 1
        return super().statistics(prediction, labels)
"""


@pytest.fixture(autouse=True)
def own_metrics(user_module: Callable[[str, str], Path]) -> None:
    user_module("own_metrics", OWN)


def test_own_metric_gets_what_its_arguments_name() -> None:
    configs = EvaluationConfig(
        metrics=(MetricConfig("own_metrics:Wrong", {"factor": 2.0}), "own_metrics:Brier")
    ).metric_configs
    wrong, brier = build_metrics(configs, 3)
    assert (wrong.key, wrong.length, wrong.takes_probabilities) == ("Wrong", 2, False)
    assert (brier.key, brier.length, brier.takes_probabilities) == ("Brier", 2, True)
    labels = torch.tensor([[0, 1, 255]])
    prediction = torch.tensor([[0, 2, 0]])
    probabilities = torch.tensor([[[0.5, 0.1, 1.0]], [[0.3, 0.1, 0.0]], [[0.2, 0.8, 0.0]]])
    assert wrong.statistics(prediction, labels, probabilities).tolist() == [2, 2]
    expected = 0.25 + 0.09 + 0.04 + 0.01 + 0.81 + 0.64
    statistics = brier.statistics(prediction, labels, probabilities)
    assert statistics.tolist() == pytest.approx([expected, 2])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Single", r"statistics must be finite sums, float64 \(S,\), received float32 \(2,\)"),
        ("Uneven", r"statistics must be finite sums, float64 \(64,\), received float64 \(0,\)"),
        ("Endless", "statistics must be finite sums.* received values that are not finite"),
        ("Failing", r"it failed on an image of 8 x 8 pixels \(IndexError"),
        ("FirstOnly", "score must treat each of several sums by itself"),
        ("Mixed", "score must treat each of several sums by itself"),
        ("Scalar", r"class_scores of sums \(2, 2, 2\) must have shape \(2, 2, 3\)"),
        ("Weighted", "the score of a ClassMetric is the mean over its classes"),
        ("Changing", "statistics must not change its arguments"),
        ("Counting", "statistics must depend on its arguments alone"),
        ("Broken", r"its constructor failed \(RuntimeError: no\)"),
        ("Absent", "own_metrics has no pipelines.evaluation.metrics.Metric Absent"),
    ],
)
def test_metric_that_breaks_the_contract_is_rejected(name: str, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        build_metrics([MetricConfig(f"own_metrics:{name}")], 3)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (("boundary",), "metrics is 'boundary'; known: boundary_f, boundary_iou, calibration_err"),
        (("dice",), "metrics is 'dice', which is always computed; remove it"),
        (("boundary_iou", "boundary_iou"), "metrics has 'boundary_iou' twice; give one of them"),
    ],
)
def test_unknown_and_repeated_metrics_are_rejected(metrics: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(metrics=metrics)


@pytest.mark.parametrize("key", ["miou", "iou", "best_miou", "identifier", "a b", "1"])
def test_key_with_another_meaning_is_rejected(key: str) -> None:
    with pytest.raises(ValueError, match="key of a metric must be a letter"):
        MetricConfig("boundary_iou", {}, key)


def test_statistics_are_written_and_read(tmp_path: Path) -> None:
    configs = EvaluationConfig(metrics=("boundary_f", "calibration_error")).metric_configs
    metrics = build_metrics(configs, 2)
    random = np.random.default_rng(0)
    measured = [Measured(m.key, m.metric, random.random((2, m.length))) for m in metrics]
    counts = ImageCounts(torch.tensor([0, 2]), torch.zeros(2, 2, 3, dtype=torch.int64))
    write_statistics(tmp_path, counts, measured, configs, ["a", "b", "c"])
    path = tmp_path / STATISTICS_FILE
    statistics = read_statistics(path)
    assert statistics.identifiers == ("a", "c")
    assert tuple(statistics.configs.values()) == configs
    for each in measured:
        np.testing.assert_array_equal(statistics.values[each.key], each.statistics)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a file of statistics by image"):
        read_statistics(path)
    path.unlink()
    write_statistics(tmp_path, counts, [], [], ["a", "b", "c"])
    assert not path.exists()
