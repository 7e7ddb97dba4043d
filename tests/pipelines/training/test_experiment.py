"""Experiments as files, and the differences between a recorded experiment and another one."""

from pathlib import Path

import pytest

from pipelines.config import ConfigurationError
from pipelines.training.experiment import Experiment, experiment_differences, read_experiment


def test_removed_setting_with_its_only_value_is_no_difference(tmp_path: Path) -> None:
    """Experiments that earlier versions recorded name the ignored label."""
    current = Experiment().as_json()
    recorded = Experiment().as_json()
    recorded["training"]["loss"]["ignore_index"] = 255
    assert experiment_differences(recorded, current) == []
    recorded["training"]["loss"]["ignore_index"] = 0
    (difference,) = experiment_differences(recorded, current)
    assert difference.startswith("training.loss.ignore_index: 0 (recorded)")
    file = tmp_path / "experiment.yaml"
    file.write_text("training: {loss: {ignore_index: 255, share: 0.1}}\n")
    assert read_experiment(file).training.loss.share == 0.1
    file.write_text("training: {loss: {ignore_index: 0}}\n")
    with pytest.raises(ConfigurationError, match=r"unknown key training\.loss\.ignore_index"):
        read_experiment(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: -1", r"seed must be from 0 to 2\^63 - 1, received -1"),
        ("training: {learning_rate: .inf}", r"training\.learning_rate must be finite"),
        ("data: {augmentation: {scale: [0.5, .inf]}}", r"scale\.1 must be finite, received inf"),
    ],
)
def test_values_that_could_only_fail_later_are_rejected(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_experiment(file)
