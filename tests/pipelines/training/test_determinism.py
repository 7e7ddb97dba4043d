"""Which algorithms torch uses while it trains."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models import FENetConfig
from orchestrator.study.identity import trial_identity
from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.training.config import TrainingConfig
from pipelines.training.determinism import training_algorithms
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport


def settings() -> tuple[Any, ...]:
    return (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize(
    ("deterministic", "expected"), [(False, (True, False, False)), (True, (False, True, True))]
)
def test_settings_apply_within_the_context_only(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool, expected: tuple[bool, ...]
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = settings()
    with training_algorithms(deterministic):
        assert settings()[:3] == expected
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
    assert settings() == before


@pytest.mark.slow
def test_training_with_deterministic_algorithms_has_the_same_result_on_a_cpu(
    small_streets: Path,
) -> None:
    experiment = Experiment(
        data=DataConfig(crop=(32, 48), validation_split=None),
        model=FENetConfig(backbone="dfnet1", channels=8, supervision=(4,)),
        training=TrainingConfig(epochs=1, batch=7, precision="fp32"),
    )
    losses, enabled = [], []

    def report(_: TrainingReport) -> None:
        enabled.append(torch.are_deterministic_algorithms_enabled())

    for deterministic in (True, False):
        config = replace(experiment.training, deterministic=deterministic)
        dataset = open_dataset(small_streets)
        training = Training(replace(experiment, training=config), dataset, torch.device("cpu"))
        training.run(report, report_steps=1)
        losses.append(training.history[0]["train/loss"])
    assert losses[0] == losses[1]
    assert enabled == [True, False, False, False]  # within the epoch, and after it


def test_option_changes_the_identity() -> None:
    plain = Experiment(training=TrainingConfig(precision="fp32"))
    other = replace(plain, training=replace(plain.training, deterministic=True))
    assert trial_identity(plain, "0" * 64) != trial_identity(other, "0" * 64)
