"""The training loop: epochs, steps, losses and errors of one process."""

import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import FENetConfig, LossConfig
from pipelines.data.config import AugmentationConfig, DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import NonFiniteLogitsError
from pipelines.training.config import OptimizerConfig
from pipelines.training.loop import NonFiniteLossError, Training, TrainingReport
from pipelines.training.results import write_results
from tests.support.small_training import CPU, run, small_experiment


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (5, 5)])
def test_batches_are_loaded_by_a_thread_for_each_core(
    small_streets: Path, cores: int, threads: int
) -> None:
    default = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        training = Training(small_experiment(batch=2), open_dataset(small_streets), CPU)
        for batches in (training.batches.epoch(0), iter(training.validation or [])):
            next(batches)
            loading = [each for each in threading.enumerate() if each.name.startswith("loading")]
            assert 0 < len(loading) <= 2 * threads
        assert training.threads == threads
    finally:
        torch.set_num_threads(default)


@pytest.mark.slow
def test_training_reduces_the_loss(small_streets: Path) -> None:
    experiment = replace(
        small_experiment(epochs=16, batch=7, learning_rate=0.05),
        model=FENetConfig(backbone="dfnet1", channels=32, ppm=False, flows=()),
    )
    plain = AugmentationConfig((1, 1), 0, 0, 0, 0, 0, (0, 0))
    data = DataConfig(crop=(32, 64), validation_split="train", augmentation=plain)
    evaluation = EvaluationConfig(batch=7, every=4)
    history, _ = run(replace(experiment, data=data, evaluation=evaluation), small_streets)
    assert history[-1]["train/loss"] < 0.8 * history[0]["train/loss"]
    assert history[-1]["val/pixel_accuracy"] > 0.5
    assert history[-1]["val/miou"] > 0.12
    assert history[-1]["val/best_miou"] == max(entry["val/miou"] for entry in history[3::4])
    rates = [entry["learning_rate"] for entry in history]
    assert rates == pytest.approx([0.05 * (1 - epoch / 16) for epoch in range(16)])


@pytest.mark.slow
def test_last_epoch_is_always_validated(small_streets: Path) -> None:
    experiment = replace(small_experiment(epochs=3), evaluation=EvaluationConfig(every=2))
    history, _ = run(experiment, small_streets)
    assert ["val/miou" in entry for entry in history] == [False, True, True]


@pytest.mark.slow
def test_steps_end_within_an_epoch(small_streets: Path, tmp_path: Path) -> None:
    """The last epoch has 2 of 3 steps, and resumes bit for bit from its first one."""
    experiment = replace(
        small_experiment(epochs=None, steps=5, ema=0.9, schedule_by="iteration"),
        evaluation=EvaluationConfig(every=3),
    )
    history, weights = run(experiment, small_streets)
    assert ["val/miou" in entry for entry in history] == [False, True]
    assert history[-1]["learning_rate"] == pytest.approx(0.01 * (1 - 4 / 5))
    reports: list[TrainingReport] = []

    def keep_within_last_epoch(report: TrainingReport) -> None:
        reports.append(report)
        if report.metrics is None and report.epoch == 2:
            report.snapshot().write(tmp_path / "checkpoint")

    Training(experiment, open_dataset(small_streets), CPU).run(keep_within_last_epoch, 1)
    # Steps 1 and 2 of the first epoch and its end, then step 1 and the end of the second.
    assert [report.metrics is None for report in reports] == [True, True, False, True, False]
    resumed, resumed_weights = run(experiment, small_streets, resume=tmp_path / "checkpoint")
    assert resumed == history
    for name, value in weights.items():
        assert torch.equal(value, resumed_weights[name]), name


@pytest.mark.slow
def test_joined_splits_train_without_validation(small_streets: Path, tmp_path: Path) -> None:
    data = DataConfig(
        crop=(32, 48), train_split="train+val", validation_split=None, class_uniform=0.5
    )
    experiment = replace(small_experiment(epochs=1), data=data)
    training = Training(experiment, open_dataset(small_streets), CPU)
    assert len(training.batches) == math.ceil(19 / 6)
    reports: list[TrainingReport] = []
    training.run(reports.append)
    (report,) = reports
    assert report.scores is None
    assert report.metrics is not None
    assert not [name for name in report.metrics if name.startswith("val/")]
    write_results(tmp_path / "results", training, report)
    assert not list((tmp_path / "results").iterdir())


def test_invalid_split_names_are_rejected() -> None:
    for name in ("", "train+", "train+train"):
        with pytest.raises(ValueError, match="train_split must name a split, or different splits"):
            DataConfig(train_split=name)


@pytest.mark.slow
def test_total_loss_is_the_weighted_sum_of_its_terms(small_streets: Path) -> None:
    loss = LossConfig(auxiliary_weight=0.5)
    history, _ = run(small_experiment(epochs=1, loss=loss), small_streets)
    entry = history[0]
    auxiliary = entry["train/loss/stage3"] + entry["train/loss/stage4"]
    assert entry["train/loss"] == pytest.approx(entry["train/loss/main"] + 0.5 * auxiliary)


@pytest.mark.slow
@pytest.mark.parametrize("factors", [{}, {"backbone.*": 0.0, "*.bias": 0.0}])
def test_gradient_clipping_bounds_the_update(
    small_streets: Path, factors: dict[str, float]
) -> None:
    """Parameters that never move do not count."""

    def update_norm(clip: float | None) -> float:
        experiment = small_experiment(
            epochs=1,
            batch=14,
            learning_rate=1.0,
            weight_decay=0.0,
            gradient_clip=clip,
            optimizer=OptimizerConfig("sgd", rate_factors=factors),
        )
        training = Training(experiment, open_dataset(small_streets), CPU)
        before = [parameter.detach().clone() for parameter in training.model.parameters()]
        training.run(lambda report: None)
        after = [parameter.detach() for parameter in training.model.parameters()]
        squares = [(a - b).double().square().sum() for a, b in zip(after, before, strict=True)]
        return float(torch.stack(squares).sum().sqrt())

    assert update_norm(None) > 0.02
    assert update_norm(0.01) == pytest.approx(0.01, rel=1e-3)


def test_non_finite_loss_error_names_step_and_samples(small_streets: Path) -> None:
    training = Training(small_experiment(), open_dataset(small_streets), CPU)
    with torch.no_grad():
        next(training.model.parameters()).fill_(math.nan)
    message = r"loss nan in epoch 1, step 1 at learning rate 0\.01, samples (\S+, ){5}\S+$"
    with pytest.raises(NonFiniteLossError, match=message):
        training.run(lambda report: None)


def test_non_finite_logits_after_the_last_step_are_an_error(small_streets: Path) -> None:
    """The last loss is finite, so only the evaluation can detect the destroyed weights."""
    experiment = small_experiment(epochs=1, batch=14, learning_rate=1e30)
    with pytest.raises(NonFiniteLogitsError, match="the network predicts NaN"):
        run(experiment, small_streets)
