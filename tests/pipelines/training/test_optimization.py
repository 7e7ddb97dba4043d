"""Learning rates against their formulas, and validation of the training settings."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.config import TrainingConfig
from pipelines.training.optimization import build_optimizer, learning_rate


def rates(steps: int, **settings: Any) -> list[float]:
    config = TrainingConfig(**settings)
    return [learning_rate(config, e, s, steps) for e in range(config.epochs) for s in range(steps)]


def test_poly_by_epoch_matches_the_paper() -> None:
    assert rates(2, epochs=4, learning_rate=0.01) == pytest.approx(
        [0.01, 0.01, 0.0075, 0.0075, 0.005, 0.005, 0.0025, 0.0025]
    )


def test_poly_by_iteration_decays_every_step() -> None:
    by_step = rates(5, epochs=2, learning_rate=1.0, power=0.9, schedule_by="iteration")
    assert by_step == pytest.approx([(1 - n / 10) ** 0.9 for n in range(10)])


def test_cosine_matches_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    actual = rates(4, epochs=3, learning_rate=0.3, schedule="cosine", schedule_by="iteration")
    assert actual == pytest.approx(expected)


def test_warmup_rises_linearly_to_the_base_rate() -> None:
    warmup_rates = rates(10, epochs=1, learning_rate=1.0, warmup_steps=4)
    assert warmup_rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@given(
    epochs=st.integers(1, 20),
    steps=st.integers(1, 20),
    schedule=st.sampled_from(["poly", "cosine"]),
    by=st.sampled_from(["epoch", "iteration"]),
    warmup=st.integers(0, 30),
)
def test_rate_is_positive_and_at_most_the_base_rate(
    epochs: int, steps: int, schedule: str, by: str, warmup: int
) -> None:
    actual = rates(steps, epochs=epochs, schedule=schedule, schedule_by=by, warmup_steps=warmup)
    assert all(0 < rate <= 0.01 for rate in actual)


def test_rate_outside_the_training_is_an_error() -> None:
    with pytest.raises(ValueError, match="epoch 3 and step 0 are outside"):
        learning_rate(TrainingConfig(epochs=3), 3, 0, 5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("power", math.nan),
        ("warmup_steps", -1),
        ("gradient_clip", 0.0),
        ("accumulation", 3),
    ],
)
def test_invalid_settings_are_rejected(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must .*received {value}"):
        TrainingConfig(**{field: value})


def test_weight_decay_applies_to_every_parameter() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    optimizer = build_optimizer(model, TrainingConfig())
    (group,) = optimizer.param_groups
    assert len(group["params"]) == 4
    assert (group["weight_decay"], group["momentum"]) == (1e-4, 0.9)
