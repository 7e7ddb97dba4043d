"""The optimizer and the learning rate of an experiment."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models.registry import takes_argument
from models.user_code import failures_as
from pipelines.training.config import OPTIMIZERS, SCHEDULES, TrainingConfig
from pipelines.training.duration import Duration
from pipelines.training.parameter_groups import OptimizationError, parameter_groups

# Built-in optimizers use torch's fused form unless the arguments choose another one.
_FORMS = ("fused", "foreach", "differentiable")


def optimizer_class(config: TrainingConfig) -> type[torch.optim.Optimizer]:
    """Import the class of the optimizer.

    Raises:
        OptimizationError: the import fails, or the settings do not fit the class.
    """
    chosen = config.optimizer_config
    try:
        cls: type[torch.optim.Optimizer] = OPTIMIZERS.find(chosen.name)
        passed = {
            next(iter(inspect.signature(cls).parameters)): "the network's parameters",
            "lr": "training.learning_rate",
            "weight_decay": "training.weight_decay",
        }
        if chosen.name == "sgd":
            passed["momentum"] = "training.momentum"
        OPTIMIZERS.check_arguments(chosen.name, cls, chosen.arguments, passed)
    except ValueError as error:
        raise OptimizationError(str(error)) from error
    if config.weight_decay and not takes_argument(cls, "weight_decay", declared=False):
        raise OptimizationError(
            f"optimizer {chosen.name} has no weight decay; set training.weight_decay: 0, received "
            f"{config.weight_decay}"
        )
    closure = inspect.signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise OptimizationError(
            f"optimizer {chosen.name} computes the loss several times in a step, which the "
            "training loop does not support; choose another one"
        )
    return cls


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters of `model`.

    Raises:
        OptimizationError: a pattern matches no parameter, or the settings do not fit the optimizer.
    """
    groups = parameter_groups(model, config.optimizer_config, config.weight_decay)
    return _construct(groups, config)


def check_optimization(model: nn.Module, config: TrainingConfig) -> None:
    """Check that the optimizer and the schedule can be built for `model`, on any device.

    Raises:
        OptimizationError: as `build_optimizer` and `build_schedule` do.
    """
    groups = parameter_groups(model, config.optimizer_config, config.weight_decay)
    # Parameters of the same shapes, without memory for their values.
    for group in groups:
        shapes = [parameter.shape for parameter in group["params"]]
        group["params"] = [nn.Parameter(torch.zeros(()).expand(shape)) for shape in shapes]
    optimizer_class(config)
    chosen = config.optimizer_config
    has_parameters = any(group["params"] for group in groups)
    # The configuration has checked the rest. An optimizer imports torch's compiler: a second.
    if chosen.arguments or chosen.name not in OPTIMIZERS.built_in or not has_parameters:
        _construct(groups, config)
    build_schedule(config)


def _construct(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    chosen = config.optimizer_config
    cls = optimizer_class(config)
    arguments: dict[str, Any] = dict(chosen.arguments)
    if chosen.name in OPTIMIZERS.built_in and not any(form in arguments for form in _FORMS):
        arguments["fused"] = True
    if chosen.name == "sgd":
        arguments["momentum"] = config.momentum
    with failures_as(OptimizationError, f"optimizer {chosen.name}: its constructor failed"):
        return cls(groups, lr=config.learning_rate, **arguments)  # type: ignore[call-arg]


def schedule_class(config: TrainingConfig) -> type[Any]:
    """Import the class of the schedule.

    Raises:
        OptimizationError: the import fails, or the arguments do not fit the class.
    """
    chosen = config.schedule_config
    passed = {"power": "training.power"} if chosen.name == "poly" else {}
    try:
        cls: type[Any] = SCHEDULES.find(chosen.name)
        SCHEDULES.check_arguments(chosen.name, cls, chosen.arguments, passed)
    except ValueError as error:
        raise OptimizationError(str(error)) from error
    return cls


def build_schedule(config: TrainingConfig) -> Callable[[float], float]:
    """Return the schedule: progress in [0, 1) to the factor of the learning rate.

    Raises:
        OptimizationError: the class cannot be imported, or the arguments do not fit.
    """
    chosen = config.schedule_config
    cls = schedule_class(config)
    arguments = {"power": config.power} if chosen.name == "poly" else {}
    with failures_as(OptimizationError, f"schedule {chosen.name}: it failed"):
        schedule = cls(**arguments, **chosen.arguments)
        first = float(schedule(0.0))
    if not (math.isfinite(first) and first >= 0):
        raise OptimizationError(
            f"schedule {chosen.name}: the factor of the learning rate must be at least 0, "
            f"received {first}"
        )
    return schedule


class LearningRate:
    """The learning rate at each step of a training."""

    def __init__(self, config: TrainingConfig, duration: Duration) -> None:
        """Import the schedule. Raises OptimizationError as `build_schedule` does."""
        self._config = config
        self._duration = duration
        self._schedule = build_schedule(config)

    def at(self, epoch: int, step: int) -> float:
        """Return the learning rate at `step` of `epoch`, both counted from 0.

        The schedule gives a factor for the progress in [0, 1): the fraction of all steps that
        precede this epoch or, with `schedule_by: iteration`, this step. Warm-up multiplies the rate
        by `(n + 1) / (warmup_steps + 1)` at step `n` of the training.

        Raises:
            OptimizationError: a schedule of the user returns no valid factor.
        """
        config, duration = self._config, self._duration
        if not (0 <= epoch < duration.epochs and 0 <= step < duration.steps_in(epoch)):
            raise ValueError(f"epoch {epoch} and step {step} are outside the training")
        first_step = duration.steps_before(epoch)
        global_step = first_step + step
        done = first_step if config.schedule_by == "epoch" else global_step
        progress = done / duration.steps
        factor = float(self._schedule(progress))
        if not (math.isfinite(factor) and factor >= 0):
            raise OptimizationError(
                f"schedule {config.schedule_config.name}: the factor must be at least 0, received "
                f"{factor} at {progress:g} of the training"
            )
        if global_step < config.warmup_steps:
            factor *= (global_step + 1) / (config.warmup_steps + 1)
        return config.learning_rate * factor
