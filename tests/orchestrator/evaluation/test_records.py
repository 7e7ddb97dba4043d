"""The settings recorded with a score."""

from collections.abc import Callable
from pathlib import Path

from orchestrator.evaluation.records import evaluation_differences, is_current, protocol_tag
from pipelines.evaluation.config import EvaluationConfig, InferenceConfig, MetricConfig


def test_recorded_settings_distinguish_protocols() -> None:
    one, other = InferenceConfig(window=(24, 24)), InferenceConfig(window=(24, 24), stride=(8, 8))
    assert protocol_tag(one) != protocol_tag(other)
    with_boundary = EvaluationConfig(window=(24, 24), metrics=("boundary_f",))
    tags = {"protocol": protocol_tag(with_boundary), "data": "x", "split": "val"}
    assert is_current(tags, with_boundary, "x", "val")
    assert is_current(tags, one, "x", "val"), "it has everything that is requested"
    tags["protocol"] = protocol_tag(one)
    assert not is_current(tags, with_boundary, "x", "val")


def test_scores_with_a_missing_or_changed_metric_are_not_current() -> None:
    def config(*metrics: str | MetricConfig) -> EvaluationConfig:
        return EvaluationConfig(metrics=metrics)

    wide = MetricConfig("boundary_iou", {"distance": 0.1})
    tags = {"protocol": protocol_tag(config(wide)), "data": "x", "split": "val"}
    assert is_current(tags, config(wide), "x", "val")
    assert is_current(tags, config(), "x", "val")
    for other in (config("boundary_iou"), config(wide, "calibration_error")):
        assert not is_current(tags, other, "x", "val")
    tags["protocol"] = protocol_tag(InferenceConfig())
    assert evaluation_differences(tags, config(wide), "x", "val") == [
        "metric boundary_iou is missing or has other settings"
    ]


def test_edited_code_of_an_own_metric_asks_for_another_evaluation(
    user_module: Callable[[str, str], Path],
) -> None:
    file = user_module("own_recorded_metric", "class Depth: ...\n")
    config = EvaluationConfig(metrics=("own_recorded_metric:Depth",))
    tags = {"protocol": protocol_tag(config), "data": "x", "split": "val"}
    assert is_current(tags, config, "x", "val")
    file.write_text("class Depth: ...  # edited\n")
    assert not is_current(tags, config, "x", "val")
