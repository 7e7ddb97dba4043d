"""Which processes Tune reuses, tested without a cluster."""

import pytest

from orchestrator.training import tuner
from orchestrator.training.tuner import may_reuse_process
from pipelines.network.config import NetworkConfig
from pipelines.training.experiment import Experiment
from tests.support.jobs import cpu_job, cpu_task


def test_process_that_ran_user_code_trains_no_other_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.sys, "platform", "linux")
    assert may_reuse_process(cpu_job(), None)
    network = NetworkConfig(network="package.module:Network")
    assert not may_reuse_process(cpu_job(cpu_task(Experiment(model=network))), None)
    assert not may_reuse_process(cpu_job(cpu_task(imports=("package.module",))), None)
