"""The reports of a worker, from a real training in this process."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.training.worker import (
    SECONDS,
    UnwrittenCheckpoint,
    WorkerTask,
    train_task,
)
from pipelines.data.dataset import open_dataset
from tests.support.small_training import WITHOUT_NORM, small_experiment


class KeptReports:
    """Keeps the metrics of each report; implements `worker.Reports`."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, Any]] = []

    def wait(self) -> None: ...

    def send(self, metrics: dict[str, Any], checkpoint: UnwrittenCheckpoint | None) -> None:
        assert checkpoint is not None
        shutil.rmtree(checkpoint.directory)
        self.metrics.append(metrics)


@pytest.mark.slow
def test_every_report_has_the_seconds_of_the_training(small_streets: Path) -> None:
    experiment = replace(small_experiment(), model=WITHOUT_NORM)
    fingerprint = open_dataset(small_streets).manifest.fingerprint
    task = WorkerTask(
        experiment, str(small_streets), fingerprint, 1, (), None, 1, 1.0, output="", stop_file=""
    )
    reports = KeptReports()
    device = torch.device("cpu")
    assert train_task(task, "run", device, None, reports, lambda: None, lambda: False)
    within = [metrics for metrics in reports.metrics if "epoch" not in metrics]
    assert len(reports.metrics) - len(within) == 2
    assert within
    seconds = [metrics[SECONDS] for metrics in reports.metrics]
    assert seconds[0] > 0
    assert all(earlier < later for earlier, later in itertools.pairwise(seconds))
