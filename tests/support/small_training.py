"""A small experiment, its training on the CPU, and in double precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import FENetConfig
from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.config import EvaluationConfig
from pipelines.network.config import NetworkConfig
from pipelines.network.precision import Numerics
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport

CPU = torch.device("cpu")


class NetworkWithoutNorm(nn.Module):
    """A network with an auxiliary head and without batch norm."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(8, classes, 1)
        self.head = nn.Conv2d(8, classes, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]] | Tensor:
        features = torch.tanh(self.features(images))
        logits = self.classifier(features)
        return (logits, [self.head(features)]) if self.training else logits


WITHOUT_NORM = NetworkConfig(f"{__name__}:{NetworkWithoutNorm.__name__}")


def small_experiment(**training: Any) -> Experiment:
    """Return an experiment with auxiliary supervision, mining, ignored pixels and dropout."""
    return Experiment(
        data=DataConfig(crop=(32, 48)),
        model=FENetConfig(backbone="dfnet1", channels=8, supervision=(3, 4)),
        training=TrainingConfig(
            **{"epochs": 2, "batch": 6, "learning_rate": 0.01, "precision": "fp32", **training}
        ),
        evaluation=EvaluationConfig(batch=2),
        seed=3,
    )


def run(
    experiment: Experiment,
    dataset: Path,
    resume: Path | None = None,
    save_at: Path | None = None,
    report_steps: int | None = None,
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train; return the deterministic metrics of each epoch and the final weights."""
    training = Training(experiment, open_dataset(dataset), CPU)
    if resume is not None:
        training.restore(resume)

    reports: list[TrainingReport] = []

    def record(report: TrainingReport) -> None:
        reports.append(report)
        # The first report is at the end of the first epoch or, with `report_steps`, within it.
        if save_at is not None and len(reports) == 1:
            report.snapshot().write(save_at)

    training.run(record, report_steps)
    nondeterministic = ("images_per_second", "memory_gib", "val/seconds", "seconds")
    history = [
        {name: value for name, value in metrics.items() if name not in nondeterministic}
        for metrics in training.history
    ]
    return history, {k: v.clone() for k, v in training.model.state_dict().items()}


@contextmanager
def double_precision() -> Iterator[None]:
    """Compute everything in float64, where remaining differences are not rounding errors."""
    to_memory_format = Numerics.to_memory_format
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(
            Numerics,
            "to_memory_format",
            lambda self, images: to_memory_format(self, images).double(),
        )
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
