"""Training settings."""

from dataclasses import dataclass, field
from typing import Literal

from models import LossConfig
from pipelines.network.config import MemoryFormat, Precision


@dataclass(frozen=True)
class TrainingConfig:
    """Training settings; the defaults are the paper's for Cityscapes (section 4.1).

    epochs: passes over the training split.
    batch: images per step, over all workers.
    accumulation: number of parts in which a batch is processed, to save memory. The loss is the
        mean over the pixels of all parts, but batch norm normalizes each part by itself, which
        affects the result. Above 1, a step takes an additional forward pass.
    learning_rate, momentum, weight_decay: of SGD; weight decay applies to every parameter.
    schedule, power: learning rate schedule, `poly` with this power or `cosine`.
    schedule_by: whether the learning rate changes every `epoch`, as in the paper, or `iteration`.
    warmup_steps: number of first steps in which the learning rate rises linearly to the schedule's.
    gradient_clip: maximum norm of all gradients together; no clipping if omitted.
    init: path or URI of a checkpoint, a model directory or a file of weights to initialize the
        whole network; in a study also `runs:/ID/best` or `models:/NAME@ALIAS`. A trial is
        identified by the content of the weights, not by their location.
    init_skip: patterns of tensor names (`head.*`) that `init` does not load, such as the classifier
        of a model with other classes.
    backbone_weights: path or URI of published weights to initialize the backbone, or
        `efficientnet-lite0` for those of ImageNet in this project's extra `pretrained`. A trial is
        identified by the content of the weights.
    precision, memory_format: numerical format of the network; `auto` chooses by device.
    compile: compile the network with `torch.compile`.
    deterministic: use deterministic algorithms only, so that a training on a GPU can be repeated
        and resumed bit for bit with the same versions and number of workers; it trains slower. A
        network of your own with an operation that has no deterministic algorithm fails. On CPUs,
        trainings are deterministic in any case.

    Raises:
        ValueError: a value is not valid; the message has the field, the value and the valid range.
    """

    __pydantic_config__ = {"extra": "forbid"}

    epochs: int = 300
    batch: int = 8
    accumulation: int = 1
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["poly", "cosine"] = "poly"
    power: float = 1.0
    schedule_by: Literal["epoch", "iteration"] = "epoch"
    warmup_steps: int = 0
    gradient_clip: float | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    init: str | None = None
    init_skip: tuple[str, ...] = ()
    backbone_weights: str | None = None
    precision: Precision = "auto"
    memory_format: MemoryFormat = "auto"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
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
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip must be above 0, received {self.gradient_clip}")
        if self.init_skip and self.init is None:
            raise ValueError("init_skip is set without init; set init or remove init_skip")
        if self.init is not None and self.backbone_weights is not None:
            raise ValueError(
                "init and backbone_weights must not both be set; init includes the backbone"
            )
