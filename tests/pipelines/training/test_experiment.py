"""Experiments as files, and the differences between a recorded experiment and another one."""

from pathlib import Path

import pytest

from pipelines.config import ConfigurationError
from pipelines.training.experiment import read_experiment


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
