"""Training settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models import LossConfig
from models.registry import ClassConfig, Registry
from pipelines.network.config import MemoryFormat, Precision

#: Optimizers by name, the values of `optimizer:`.
OPTIMIZERS: Registry[Any] = Registry(
    "optimizer", "torch.optim:Optimizer", {"adamw": "torch.optim:AdamW", "sgd": "torch.optim:SGD"}
)

#: Learning rate schedules by name, the values of `schedule:`.
SCHEDULES: Registry[Any] = Registry(
    "schedule",
    built_in={
        "cosine": "pipelines.training.schedules:Cosine",
        "one-cycle": "pipelines.training.schedules:OneCycle",
        "poly": "pipelines.training.schedules:Poly",
        "step": "pipelines.training.schedules:Step",
    },
)


@dataclass(frozen=True)
class LayerDecay:
    """Learning rates that decrease from a network's last layer to its first.

    With n layers, layer i, counted from 1, has the learning rate times `factor^(n + 1 - i)`.
    Parameters outside of all layers, such as the decoder's, keep the learning rate.

    factor: factor between neighboring layers, above 0 and at most 1.
    layers: patterns of parameter names, from the first layer to the last. `#` stands for a number,
        and each number is a layer of its own: `backbone.stages.#.*`. A parameter belongs to the
        first pattern that matches it.
    """

    __pydantic_config__ = {"extra": "forbid"}

    factor: float
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor must be above 0 and at most 1, received {self.factor}")
        if not self.layers:
            raise ValueError("layers must name at least one pattern, received none")


@dataclass(frozen=True)
class OptimizerConfig(ClassConfig):
    """An optimizer and its groups of parameters.

    A pattern matches names of parameters: `backbone.*`, `*.bias`. A pattern that matches no
    parameter of the network is an error.

    name: `sgd`, `adamw`, or `package.module:Class` of a `torch.optim.Optimizer`, such as
        `torch.optim:NAdam`.
    arguments: arguments of its constructor, such as `betas`, besides the parameters, `lr` and
        `weight_decay`, and `momentum` of `sgd`.
    no_decay: parameters without weight decay: `norm` for the normalization layers', `bias` for all
        biases, or patterns.
    rate_factors: factors of the learning rate, by pattern. A parameter that several patterns match
        gets the product; 0 keeps it at its initial value.
    layer_decay: learning rates that decrease from the last layer to the first; none by default.
    """

    name: str = "sgd"
    no_decay: tuple[str, ...] = ()
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    layer_decay: LayerDecay | None = None

    registry = OPTIMIZERS

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern, factor in self.rate_factors.items():
            if not (_is_number(factor) and math.isfinite(factor) and factor >= 0):
                raise ValueError(
                    f"rate_factors must be numbers from 0, received {factor} for {pattern}"
                )


@dataclass(frozen=True)
class ScheduleConfig(ClassConfig):
    """A learning rate schedule with arguments.

    name: `poly`, `cosine`, `one-cycle`, `step`, or `package.module:Class` of a schedule.
    arguments: arguments of its constructor.
    """

    registry = SCHEDULES


@dataclass(frozen=True)
class TrainingConfig:
    """Training settings; the defaults are the paper's for Cityscapes (section 4.1).

    epochs: passes over the training split.
    steps: number of optimizer steps, instead of `epochs`; the last epoch is then usually shorter.
        Validation and checkpoints are still by epoch.
    batch: images per step, over all workers.
    accumulation: number of micro-batches in which a batch is processed, to save memory. The loss is
        computed for the whole batch; only a loss of another base class than `models.losses.Loss` is
        computed for each micro-batch and averaged. Batch norm normalizes each micro-batch by
        itself, which affects the result. Above 1, a step takes an additional forward pass.
    optimizer: `sgd`, `adamw`, or `package.module:Class`; or a mapping with arguments and groups of
        parameters.
    learning_rate: highest learning rate.
    weight_decay: of every parameter, unless `optimizer.no_decay` excepts it.
    momentum: of the optimizer `sgd`; those of others are among their arguments.
    schedule: learning rate schedule: `poly`, `cosine`, `one-cycle`, `step`, or
        `package.module:Class`; or a mapping of `name` and `arguments`.
    power: of the schedule `poly`; those of others are among their arguments.
    schedule_by: whether the learning rate changes every `epoch`, as in the paper, or `iteration`.
    warmup_steps: number of first steps in which the learning rate rises linearly to the schedule's.
    gradient_clip: maximum norm of all gradients together; no clipping if omitted. Parameters that
        `rate_factors` keeps at their initial values do not count.
    ema: decay of an exponential moving average of the weights, such as 0.999. The average is
        scored, saved and logged instead of the trained weights; none by default. Step n, counted
        from 1, has a decay of at most n / (n + 9), so that the average forgets the first weights.
    init: path or URI of a checkpoint, a model directory or a file of weights to initialize the
        whole network; in a study also `runs:/ID/best` or `models:/NAME@ALIAS`. A trial is
        identified by the content of the weights, not by their location.
    init_skip: patterns of tensor names (`head.*`) that `init` does not load, such as the classifier
        of a model with other classes.
    backbone_weights: path or URI of published weights to initialize the backbone; a name such as
        `csail-resnet18` for a file that is downloaded once; `efficientnet-lite0` for those of
        ImageNet in this project's extra `pretrained`; or `hf:OWNER/NAME` for a model on the Hugging
        Face hub. A network `hf:NAME` loads all that
        fits. By default the weights of the model that `backbone: hf:NAME` or `network: hf:NAME`
        names, if it is a saved one. A trial is identified by the content of the weights.
    precision: number format of the network; `auto` is bf16 where the device computes it natively.
    memory_format: order of an image's values in memory; `auto` is contiguous on a GPU in fp32,
        otherwise channels-last, which is mostly faster. It changes results by rounding only.
    compile: compile the network with `torch.compile`.
    deterministic: use deterministic algorithms only, so that a training run on a GPU can be
        repeated and resumed bit for bit with the same versions and number of workers; it trains
        slower. A custom network with an operation that has no deterministic algorithm fails. On
        CPUs, training is deterministic in any case.

    Raises:
        ValueError: a value is not valid; the message has the field, the value and the valid range.
    """

    __pydantic_config__ = {"extra": "forbid"}

    epochs: int | None = 300
    steps: int | None = None
    batch: int = 8
    accumulation: int = 1
    optimizer: str | OptimizerConfig = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str | ScheduleConfig = "poly"
    power: float = 1.0
    schedule_by: Literal["epoch", "iteration"] = "epoch"
    warmup_steps: int = 0
    gradient_clip: float | None = None
    ema: float | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    init: str | None = None
    init_skip: tuple[str, ...] = ()
    backbone_weights: str | None = None
    precision: Precision = "auto"
    memory_format: MemoryFormat = "auto"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch", "accumulation"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, received {value}")
        self._choose_length()
        if self.batch % self.accumulation:
            raise ValueError(
                f"accumulation must divide batch, received {self.accumulation} and {self.batch}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, received {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), received {self.momentum}")
        for name in ("weight_decay", "power", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, received {getattr(self, name)}")
        object.__setattr__(self, "optimizer", self.optimizer_config.short_form())
        object.__setattr__(self, "schedule", self.schedule_config.short_form())
        if self.optimizer_config.name != "sgd" and self.momentum != TrainingConfig.momentum:
            raise ValueError(
                f"momentum is {self.momentum}, but only the optimizer sgd has it; set arguments of "
                f"{self.optimizer_config.name} in optimizer.arguments"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be between 0 and 1, received {self.ema}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip must be above 0, received {self.gradient_clip}")
        if self.init_skip and self.init is None:
            raise ValueError("init_skip is set without init; set init or remove init_skip")
        if self.init is not None and self.backbone_weights is not None:
            raise ValueError(
                "init and backbone_weights must not both be set; init includes the backbone"
            )

    def _choose_length(self) -> None:
        """Check that `epochs` or `steps` is set; `steps` replaces the default of `epochs`."""
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs and steps are both null; set one of them")
        if self.steps is not None:
            if self.epochs not in (None, TrainingConfig.epochs):
                raise ValueError(
                    f"steps must not be set together with epochs, received {self.steps} and "
                    f"{self.epochs}; remove one of them"
                )
            object.__setattr__(self, "epochs", None)

    @property
    def optimizer_config(self) -> OptimizerConfig:
        """`optimizer` in its long form."""
        return OptimizerConfig.read(self.optimizer, "optimizer")

    @property
    def schedule_config(self) -> ScheduleConfig:
        """`schedule` in its long form."""
        return ScheduleConfig.read(self.schedule, "schedule")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
