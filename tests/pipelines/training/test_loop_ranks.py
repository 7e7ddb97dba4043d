"""Several ranks take the same steps as one process."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import LossConfig
from pipelines.training.config import OptimizerConfig
from pipelines.training.distributed import keep_gradient_strides
from pipelines.training.experiment import Experiment
from tests.support.small_training import double_precision, run, small_experiment
from tests.support.workers import join_group, run_workers


def _run_twice(experiment: Experiment, dataset: Path) -> list[Any]:
    """Return history and weights in float32, then in float64."""
    single = run(experiment, dataset)
    with double_precision():
        return [single, run(experiment, dataset)]


def _three_steps(accumulation: int) -> Experiment:
    return small_experiment(batch=14, epochs=3, accumulation=accumulation)


@functools.cache
def _single_process(dataset: Path, accumulation: int) -> list[Any]:
    return _run_twice(_three_steps(accumulation), dataset)


def _worker(rank: int, size: int, experiment: Experiment, dataset: Path, out: Path) -> None:
    torch.set_num_threads(1)
    join_group(rank, size, out)
    torch.save(_run_twice(experiment, dataset), out / f"{rank}.pt")


def run_on_ranks(size: int, experiment: Experiment, dataset: Path, out: Path) -> list[Any]:
    out.mkdir()
    run_workers(_worker, (size, experiment, dataset, out), size)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.mark.slow
# Uneven shares: 14 is not divisible by 4 ranks, nor its parts of 7 by 2 ranks.
@pytest.mark.parametrize(("size", "accumulation"), [(2, 1), (4, 1), (2, 2)])
def test_ranks_take_the_same_steps_as_one_process(
    small_streets: Path, tmp_path: Path, size: int, accumulation: int
) -> None:
    # Three steps. In float32 the first two losses agree to the last digit; updates differ by
    # rounding, which can flip a ReLU or a mined pixel. That changed one loss term by 1.5e-5 and,
    # where batch norm sees seven values (the pyramid's single bin), a variance by 1.3e-2.
    # In float64 these differences vanish, but a bug would remain visible.
    single_process = _single_process(small_streets, accumulation)
    ranks = run_on_ranks(size, _three_steps(accumulation), small_streets, tmp_path / "out")
    tolerances = ((1e-4, 1e-2, 3e-2), (1e-12, 1e-12, 1e-11))
    for precision, (loss_tolerance, score_tolerance, weight_tolerance) in enumerate(tolerances):
        (history, weights), (rank_history, rank_weights) = (
            single_process[precision],
            ranks[0][precision],
        )
        for results in ranks:
            assert results[precision][0] == rank_history
            for name, value in results[precision][1].items():
                assert torch.equal(value, rank_weights[name]), name
        for expected, actual in zip(history, rank_history, strict=True):
            for name in (name for name in expected if name.startswith("train/")):
                assert actual[name] == pytest.approx(expected[name], rel=loss_tolerance), name
            assert actual["val/miou"] == pytest.approx(expected["val/miou"], abs=score_tolerance)
        for name, value in weights.items():
            difference = (rank_weights[name].double() - value.double()).abs().max()
            # Values near 0, such as a bias, are only as exact as the values they are added to.
            assert difference <= weight_tolerance * (value.double().abs().max() + 0.1), name
        for name in ("train/loss/main", "train/loss/stage3", "train/loss/stage4"):
            assert rank_history[0][name] == pytest.approx(
                history[0][name], rel=loss_tolerance / 100
            )


@pytest.mark.slow
def test_ranks_take_the_same_steps_with_another_recipe(small_streets: Path, tmp_path: Path) -> None:
    # AdamW divides by small second moments, so that rounding grows faster than with SGD: only
    # float64 can tell a bug from it.
    experiment = small_experiment(
        batch=14,
        epochs=3,
        accumulation=2,
        learning_rate=0.002,
        weight_decay=0.01,
        optimizer=OptimizerConfig(
            "adamw", no_decay=("norm", "bias"), rate_factors={"backbone.*": 0.3}
        ),
        schedule="one-cycle",
        schedule_by="iteration",
        ema=0.9,
        loss=LossConfig(terms=("dice", "cross-entropy")),
    )
    (_, (history, weights)) = _run_twice(experiment, small_streets)
    for _, (rank_history, rank_weights) in run_on_ranks(
        2, experiment, small_streets, tmp_path / "out"
    ):
        for expected, actual in zip(history, rank_history, strict=True):
            assert actual == pytest.approx(expected, rel=1e-9)
        for name, value in weights.items():
            assert torch.allclose(rank_weights[name], value, rtol=1e-8, atol=1e-9), name


@pytest.mark.parametrize("shape", [(6, 4, 1, 1), (6, 1, 3, 3), (1, 4, 3, 3), (6, 4, 3, 3)])
def test_gradients_have_the_strides_of_their_parameters(shape: tuple[int, ...]) -> None:
    """Convolutions of images with channels last return such gradients."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(shape))])
    outputs, inputs, height, width = shape
    gradient = torch.randn(outputs, height, width, inputs).permute(0, 3, 1, 2)
    assert gradient.stride() != model[0].stride()
    keep_gradient_strides(model)
    model[0].backward(gradient)
    assert torch.equal(model[0].grad, gradient)
    assert model[0].grad.stride() == model[0].stride()
