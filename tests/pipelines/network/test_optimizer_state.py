"""Checkpoints of any torch optimizer: a resumed one takes bit for bit the same steps."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.network.checkpoint import (
    CheckpointError,
    load_weights,
    restore_checkpoint,
    take_snapshot,
)

Build = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


class Counting(torch.optim.Optimizer):
    """An optimizer that keeps numbers: by parameter, and by group."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "scale": 1.0, "bounds": (0.0, 1.0)})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["scale"] *= 0.7
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                parameter -= group["lr"] * group["scale"] / state["count"] * parameter.grad


class Compact(torch.optim.Optimizer):
    """An optimizer whose state has data types other than the parameters'."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                    state["sum"] = torch.zeros((), dtype=torch.float64)
                    state["seen"] = torch.zeros(2, dtype=torch.int64)
                state["momentum"].mul_(0.9).add_(parameter.grad)
                state["sum"] += parameter.grad.double().square().sum()
                state["seen"] += 2**25 + 1  # float32 cannot hold it
                parameter -= group["lr"] * state["momentum"] / (1 + state["sum"])


OPTIMIZERS: dict[str, Build] = {
    "sgd fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
    "sgd foreach": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, foreach=True),
    "sgd without momentum": lambda p: torch.optim.SGD(p, 0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 0.1, foreach=True, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, betas=(0.8, 0.9)),
    "nadam": lambda p: torch.optim.NAdam(p, 0.1),
    "radam": lambda p: torch.optim.RAdam(p, 0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.1),
    "asgd": lambda p: torch.optim.ASGD(p, 0.1),
    "rprop": lambda p: torch.optim.Rprop(p, 0.1),
    "own": lambda p: Counting(p, 0.1),
    "own with other data types": lambda p: Compact(p, 0.1),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        model.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_resumed_optimizer_takes_the_same_steps(build: Build, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    model.to(memory_format=torch.channels_last)
    other = copy.deepcopy(model)
    optimizer = build(model.parameters())
    train(model, optimizer, 0, 3)
    take_snapshot(model, optimizer, {"history": [1]}).write(tmp_path / "checkpoint")
    train(model, optimizer, 3, 6)

    resumed = build(other.parameters())
    state = restore_checkpoint(tmp_path / "checkpoint", other, resumed)
    assert state == {"history": [1]}
    train(other, resumed, 3, 6)
    for expected, actual in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[expected].items():
            if isinstance(value, torch.Tensor):
                assert resumed.state[actual][key].dtype == value.dtype, key
                assert torch.equal(resumed.state[actual][key], value), key
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_average_is_what_is_saved_as_the_model(tmp_path: Path) -> None:
    model, average = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    take_snapshot(model, optimizer, {}, average).write(tmp_path / "checkpoint")
    scored, trained, restored = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    load_weights(tmp_path / "checkpoint", scored)
    restore_checkpoint(
        tmp_path / "checkpoint",
        trained,
        torch.optim.SGD(trained.parameters(), 0.1),
        restored,
    )
    assert torch.equal(scored.weight, average.weight)
    assert torch.equal(restored.weight, average.weight)
    assert torch.equal(trained.weight, model.weight)


def test_state_that_no_file_can_hold_is_an_error() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.state[model.weight]["history"] = object()
    with pytest.raises(CheckpointError, match="SGD keeps weight:history of type object; an opt"):
        take_snapshot(model, optimizer, {})
