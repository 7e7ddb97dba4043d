"""A training step makes the host wait for the device once, for the losses."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import FENetConfig
from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.network.precision import Numerics
from pipelines.training import loop
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport
from tests.support.host_waits import HostWaits

STEPS = 2


class StepsDone(Exception):  # noqa: N818 - ends the training, not an error
    """All steps of the test have been taken."""


class CountedCopy:
    """Stands in for `HostCopy`: the meta device has no values to copy."""

    waits = 0

    def __init__(self, tensor: Tensor) -> None:
        self._size = len(tensor)

    def values(self) -> list[float]:
        CountedCopy.waits += 1
        return [0.0] * self._size


@pytest.fixture
def meta_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The meta device, with replacements for what the training needs a real device for."""

    def unfused(model: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
        return torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9)

    monkeypatch.setattr(loop, "HostCopy", CountedCopy)
    monkeypatch.setattr(loop, "build_optimizer", unfused)
    monkeypatch.setattr(Numerics, "autocast", lambda self: nullcontext())
    monkeypatch.setattr(CountedCopy, "waits", 0)
    return torch.device("meta")


@pytest.mark.slow
@pytest.mark.parametrize("training", [{}, {"accumulation": 2, "gradient_clip": 1.0}])
def test_host_waits_once_in_a_step(
    small_streets: Path, meta_device: torch.device, training: dict[str, Any]
) -> None:
    experiment = Experiment(
        data=DataConfig(crop=(32, 48)),
        model=FENetConfig(backbone="dfnet1", channels=8, flows=("detail",), supervision=(4,)),
        training=TrainingConfig(batch=4, precision="fp32", **training),
    )
    run = Training(experiment, open_dataset(small_streets), meta_device)
    steps = 0

    def report(_: TrainingReport) -> None:
        nonlocal steps
        steps += 1
        if steps == STEPS:
            raise StepsDone

    with HostWaits() as record, pytest.raises(StepsDone):
        run.run(report, report_steps=1)
    assert record.waits == []
    assert CountedCopy.waits == STEPS


def test_every_kind_of_wait_is_recorded() -> None:
    device = torch.device("meta")
    with HostWaits() as record:
        values = torch.zeros(3, device=device)
        torch.tensor([1.0], device=device)
        values.new_tensor([1.0])
        torch.zeros(3).to(device)
        values.copy_(torch.zeros(3))
        torch.zeros(3).to(device, non_blocking=True)
        values.copy_(torch.zeros(3), non_blocking=True)
        for read in (values.sum().item, values.tolist, values.nonzero):
            with pytest.raises(RuntimeError):
                read()
    assert record.waits == ["tensor", "new_tensor", "aten._to_copy.default", "aten.copy_.default"]
