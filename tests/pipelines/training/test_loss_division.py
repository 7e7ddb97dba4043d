"""Losses that depend on how a batch is divided are named."""

import pytest

from models import LossConfig
from models.config import LossTermConfig
from pipelines.training.loss_division import division_warnings

OWN = LossTermConfig("torch.nn:CrossEntropyLoss", arguments={"ignore_index": 255})


@pytest.mark.parametrize(
    ("accumulation", "workers", "parts"),
    [
        (4, 1, "each part of a batch (4 micro-batches) and"),
        (1, 2, "each part of a batch (up to 2 workers) and"),
        (4, 2, "each part of a batch (4 micro-batches and up to 2 workers) and"),
    ],
)
def test_divided_losses_are_named(accumulation: int, workers: int, parts: str) -> None:
    (line,) = division_warnings(LossConfig(terms=("dice", OWN)), accumulation, workers)
    assert line.startswith("loss torch.nn:CrossEntropyLoss is computed for ")
    assert parts in line


def test_losses_that_add_up_are_not_named() -> None:
    terms = ("mined-cross-entropy", "dice", "lovasz", "models.losses:Focal")
    assert division_warnings(LossConfig(terms=terms), 4, 4) == []
    assert division_warnings(LossConfig(terms=(OWN,)), 1, 1) == []
