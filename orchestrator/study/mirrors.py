"""The configuration of copies of the metrics for other programs than MLflow."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WandbOptions:
    """Runs in Weights & Biases, one by trial, in a group named like the study.

    project: name of the project.
    entity: user or team that owns it; by default, the one of the login.
    mode: `offline` writes files for `wandb sync`, in `./wandb` or below WANDB_DIR; `online` uploads
        while the trials train, and needs a login (`wandb login`, or WANDB_API_KEY).
    """

    __pydantic_config__ = {"extra": "forbid"}

    project: str
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"


@dataclass(frozen=True)
class MirrorOptions:
    """Where the metrics of each epoch are copied to while trials train. The report, the plan and
    `studies` read MLflow alone.

    tensorboard: a directory for TensorBoard's event files, in `STUDY/TRIAL/RUN` below it; relative
        to the directory of the command.
    wandb: a project of Weights & Biases; needs the package `wandb`.
    """

    __pydantic_config__ = {"extra": "forbid"}

    tensorboard: str | None = None
    wandb: WandbOptions | None = None

    def __post_init__(self) -> None:
        if self.tensorboard is not None and "://" in self.tensorboard:
            raise ValueError(
                f"tensorboard must be a directory of this machine, received {self.tensorboard!r}"
            )
