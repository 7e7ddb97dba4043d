"""The settings recorded with a score."""

from orchestrator.evaluation.records import is_current, protocol_tag
from pipelines.evaluation.config import InferenceConfig


def test_recorded_settings_distinguish_protocols() -> None:
    one, other = InferenceConfig(window=(24, 24)), InferenceConfig(window=(24, 24), stride=(8, 8))
    assert protocol_tag(one) != protocol_tag(other)
    tags = {"protocol": protocol_tag(one, 3), "data": "x", "split": "val"}
    assert is_current(tags, one, 3, "x", "val")
    assert not is_current(tags, one, 0, "x", "val")
