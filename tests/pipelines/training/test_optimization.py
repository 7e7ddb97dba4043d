"""Learning rates against formulas and torch's schedules, groups of parameters, and settings."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.config import (
    LayerDecay,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from pipelines.training.duration import Duration
from pipelines.training.optimization import LearningRate, build_optimizer, check_optimization
from pipelines.training.parameter_groups import OptimizationError
from pipelines.training.schedules import OneCycle


def rates(epoch_steps: int, **settings: Any) -> list[float]:
    config = TrainingConfig(**settings)
    duration = Duration.of(config, images=epoch_steps * config.batch)
    rate = LearningRate(config, duration)
    return [rate.at(e, s) for e in range(duration.epochs) for s in range(duration.steps_in(e))]


def test_poly_by_epoch_matches_the_paper() -> None:
    assert rates(2, epochs=4, learning_rate=0.01) == pytest.approx(
        [0.01, 0.01, 0.0075, 0.0075, 0.005, 0.005, 0.0025, 0.0025]
    )


def test_poly_by_iteration_decays_every_step() -> None:
    by_step = rates(5, epochs=2, learning_rate=1.0, power=0.9, schedule_by="iteration")
    assert by_step == pytest.approx([(1 - n / 10) ** 0.9 for n in range(10)])


@given(epoch_steps=st.integers(1, 9), steps=st.integers(1, 40), images_over=st.integers(0, 3))
def test_steps_cut_the_last_epoch(epoch_steps: int, steps: int, images_over: int) -> None:
    images = epoch_steps * 4 - images_over
    duration = Duration.of(TrainingConfig(steps=steps, batch=4), images)
    lengths = [duration.steps_in(epoch) for epoch in range(duration.epochs)]
    assert sum(lengths) == steps
    assert lengths[:-1] == [epoch_steps] * (duration.epochs - 1)
    assert duration.last_epoch == pytest.approx(lengths[-1] / epoch_steps)
    assert Duration.of(TrainingConfig(epochs=3, batch=4), images) == Duration(
        epoch_steps, 3 * epoch_steps
    )


def test_steps_and_epochs_of_the_same_length_have_the_same_rates() -> None:
    for by in ("epoch", "iteration"):
        settings = {"schedule": "cosine", "schedule_by": by, "warmup_steps": 3}
        assert rates(5, epochs=4, **settings) == rates(5, steps=20, **settings)
    # Each epoch has the rate of its first step; the last one has two of five steps.
    by_epoch = rates(5, steps=12, learning_rate=1.0)
    assert by_epoch == pytest.approx([1.0] * 5 + [1 - 5 / 12] * 5 + [1 - 10 / 12] * 2)


def test_steps_replace_epochs() -> None:
    assert TrainingConfig(steps=40).epochs is None
    with pytest.raises(ValueError, match="steps must not be set together with epochs, received 4"):
        TrainingConfig(steps=4, epochs=2)
    with pytest.raises(ValueError, match="epochs and steps are both null"):
        TrainingConfig(epochs=None)


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


def torch_rates(schedule: type[torch.optim.lr_scheduler.LRScheduler], **arguments: Any) -> Any:
    """Return 400 rates of one of torch's schedules with the highest rate 0.3."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = schedule(optimizer, **arguments)
    expected = []
    for _ in range(400):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return expected


def test_one_cycle_matches_torch() -> None:
    """torch reaches its last rate at the last step, one step before the end of the training."""
    schedule = ScheduleConfig("one-cycle", {"pct_start": 0.25, "div_factor": 10})
    actual = rates(40, epochs=10, learning_rate=0.3, schedule=schedule, schedule_by="iteration")
    expected = torch_rates(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=0.3,
        total_steps=401,
        pct_start=0.25,
        div_factor=10,
        cycle_momentum=False,
    )
    assert actual == pytest.approx(expected, abs=0.3 * 0.02)
    assert max(actual) == pytest.approx(0.3)
    assert actual[0] == pytest.approx(0.03)


def test_one_cycle_ends_at_its_last_factor() -> None:
    schedule = OneCycle(div_factor=10, final_div_factor=50)
    assert [schedule(0.0), schedule(0.3), schedule(1.0)] == pytest.approx([0.1, 1, 0.1 / 50])


def test_step_matches_torch() -> None:
    schedule = ScheduleConfig("step", {"milestones": [0.5, 0.75], "gamma": 0.2})
    actual = rates(40, epochs=10, learning_rate=0.3, schedule=schedule, schedule_by="iteration")
    expected = torch_rates(torch.optim.lr_scheduler.MultiStepLR, milestones=[200, 300], gamma=0.2)
    assert actual == pytest.approx(expected)


def test_warmup_rises_linearly_to_the_base_rate() -> None:
    warmup_rates = rates(10, epochs=1, learning_rate=1.0, warmup_steps=4)
    assert warmup_rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_warmup_of_several_epochs_rises_without_a_restart() -> None:
    constant = ScheduleConfig("step", {"milestones": [0.9]})
    warmup_rates = rates(2, epochs=4, learning_rate=1.0, schedule=constant, warmup_steps=4)
    assert warmup_rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])


@given(
    epochs=st.integers(1, 20),
    steps=st.integers(1, 20),
    schedule=st.sampled_from(
        ["poly", "cosine", "one-cycle", ScheduleConfig("step", {"milestones": [0.5, 0.8]})]
    ),
    by=st.sampled_from(["epoch", "iteration"]),
    warmup=st.integers(0, 30),
)
def test_rate_is_positive_and_at_most_the_base_rate(
    epochs: int, steps: int, schedule: str | ScheduleConfig, by: str, warmup: int
) -> None:
    actual = rates(steps, epochs=epochs, schedule=schedule, schedule_by=by, warmup_steps=warmup)
    assert all(0 < rate <= 0.01 for rate in actual)


def test_rate_outside_the_training_is_an_error() -> None:
    with pytest.raises(ValueError, match="epoch 3 and step 0 are outside"):
        LearningRate(TrainingConfig(epochs=3), Duration(5, 15)).at(3, 0)
    with pytest.raises(ValueError, match="epoch 2 and step 4 are outside"):
        LearningRate(TrainingConfig(steps=14), Duration(5, 14)).at(2, 4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("steps", 0),
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("power", math.nan),
        ("warmup_steps", -1),
        ("gradient_clip", 0.0),
        ("accumulation", 3),
        ("ema", 1.0),
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


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.ModuleDict(
            {
                "stem": torch.nn.Conv2d(3, 4, 1),
                "layer10": torch.nn.Conv2d(4, 4, 1),
                "layer9": torch.nn.Conv2d(4, 4, 1),
                "norm": torch.nn.LayerNorm(4),
            }
        )
        self.head = torch.nn.Conv2d(4, 2, 1)


def settings_by_name(config: TrainingConfig) -> dict[str, tuple[float, float]]:
    """Return the weight decay and the factor of the learning rate of each parameter."""
    model = Network()
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["weight_decay"], round(group["rate_factor"], 9))
        for group in build_optimizer(model, config).param_groups
        for parameter in group["params"]
    }


def test_groups_have_their_own_weight_decay_and_rate() -> None:
    optimizer = OptimizerConfig(
        "adamw",
        {"betas": [0.9, 0.95]},
        no_decay=("norm", "bias"),
        rate_factors={"backbone.*": 0.1, "*.stem.*": 0.5},
        layer_decay=LayerDecay(0.5, ("backbone.stem.*", "backbone.layer#.*")),
    )
    config = TrainingConfig(optimizer=optimizer, weight_decay=0.05)
    assert settings_by_name(config) == {
        # Layer 1 of 3: half of a half of a half, in addition to both patterns.
        "backbone.stem.weight": (0.05, 0.1 * 0.5 * 0.125),
        "backbone.stem.bias": (0.0, 0.1 * 0.5 * 0.125),
        "backbone.layer9.weight": (0.05, 0.1 * 0.25),
        "backbone.layer9.bias": (0.0, 0.1 * 0.25),
        "backbone.layer10.weight": (0.05, 0.1 * 0.5),
        "backbone.layer10.bias": (0.0, 0.1 * 0.5),
        "backbone.norm.weight": (0.0, 0.1),
        "backbone.norm.bias": (0.0, 0.1),
        "head.weight": (0.05, 1.0),
        "head.bias": (0.0, 1.0),
    }
    assert build_optimizer(Network(), config).param_groups[0]["betas"] == (0.9, 0.95)
    check_optimization(Network().to("meta"), config)


def test_no_decay_of_biases_includes_those_of_attention() -> None:
    model = torch.nn.Module()
    model.attention = torch.nn.MultiheadAttention(4, 2, add_bias_kv=True)
    model.relative_position_bias_table = torch.nn.Parameter(torch.zeros(3, 2))
    config = TrainingConfig(optimizer=OptimizerConfig(no_decay=("bias",)), weight_decay=0.05)
    names = {parameter: name for name, parameter in model.named_parameters()}
    without_decay = {
        names[parameter]
        for group in build_optimizer(model, config).param_groups
        for parameter in group["params"]
        if group["weight_decay"] == 0
    }
    assert without_decay == {"attention.in_proj_bias", "attention.out_proj.bias"}


def test_no_decay_of_normalization_leaves_out_the_layers_inside() -> None:
    class NormalizedBlock(torch.nn.Sequential):
        """Its name has `Norm`, too."""

    model = NormalizedBlock(torch.nn.Conv2d(3, 4, 1), torch.nn.GroupNorm(2, 4))
    config = TrainingConfig(optimizer=OptimizerConfig(no_decay=("norm",)), weight_decay=0.05)
    decays = [
        (len(group["params"]), group["weight_decay"])
        for group in build_optimizer(model, config).param_groups
    ]
    assert decays == [(2, 0.05), (2, 0.0)]


def test_layer_of_a_parameter_is_the_first_whose_pattern_matches() -> None:
    layers = ("backbone.stem.*", "backbone.*", "*")
    optimizer = OptimizerConfig(layer_decay=LayerDecay(0.5, layers))
    factors = {
        name: factor
        for name, (_, factor) in settings_by_name(TrainingConfig(optimizer=optimizer)).items()
    }
    assert factors["backbone.stem.weight"] == 0.125
    assert factors["backbone.layer9.weight"] == factors["backbone.norm.bias"] == 0.25
    assert factors["head.weight"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": OptimizerConfig(no_decay=("neck.*",))},
            r"training\.optimizer\.no_decay has 'neck\.\*', which matches no parameter; those of "
            r"the network are backbone\.stem\.\*, backbone\.layer10\.\*, backbone\.layer9\.\*, "
            r"backbone\.norm\.\*, head\.\* \(# stands for a number\)$",
        ),
        (
            {"optimizer": OptimizerConfig(layer_decay=LayerDecay(0.5, ("backbone.block#.*",)))},
            r"training\.optimizer\.layer_decay\.layers has 'backbone\.block#\.\*', which matches",
        ),
        (
            {"optimizer": OptimizerConfig("adamw", {"beta": 0.9})},
            "optimizer adamw: unknown argument `beta`; known: betas, eps",
        ),
        (
            {"optimizer": OptimizerConfig("adamw", {"lr": 0.9})},
            "optimizer adamw: remove the argument `lr`; it is training.learning_rate",
        ),
        (
            {"optimizer": OptimizerConfig("adamw", {"betas": [2, 0.9]})},
            "optimizer adamw: its constructor failed .ValueError: Invalid beta",
        ),
        (
            {"optimizer": "torch.optim:LBFGS", "weight_decay": 0.0},
            "optimizer torch.optim:LBFGS computes the loss several times in a step",
        ),
        (
            {"optimizer": "torch.optim:SparseAdam"},
            "optimizer torch.optim:SparseAdam has no weight decay; set training.weight_decay: 0",
        ),
        ({"optimizer": "torch.nn:Conv2d"}, "torch.nn has no torch.optim.Optimizer Conv2d"),
        (
            {"schedule": ScheduleConfig("step", {"milestones": [30, 60]})},
            "schedule step: it failed .ValueError: milestones must be increasing fractions",
        ),
        (
            {"schedule": ScheduleConfig("step", {"milestones": [0.0, 0.6]})},
            "schedule step: it failed .ValueError: milestones must be increasing fractions",
        ),
        (
            {"schedule": ScheduleConfig("step")},
            "schedule step: argument `milestones` is missing",
        ),
        (
            {"schedule": ScheduleConfig("poly", {"power": 2})},
            "schedule poly: remove the argument `power`; it is training.power",
        ),
    ],
)
def test_optimizers_and_schedules_that_do_not_fit_are_rejected(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptimizationError, match=message):
        check_optimization(Network(), TrainingConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam'; known: adamw, sgd; or package.module:Class"),
        ({"schedule": "linear"}, "schedule is 'linear'; known: cosine, one-cycle, poly, step"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum is 0.5, but only the optimizer sgd"),
    ],
)
def test_unknown_names_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


def test_short_and_long_form_are_equal() -> None:
    long = TrainingConfig(optimizer=OptimizerConfig("adamw"), schedule=ScheduleConfig("cosine"))
    assert long == TrainingConfig(optimizer="adamw", schedule="cosine")
