"""A gang works for the trial that started it, or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

from orchestrator import fleet
from orchestrator.causes import diagnose
from orchestrator.failures import WrongTrialError
from orchestrator.trainer import ReportToTune
from orchestrator.worker import RUN, WorkerTask, train_worker
from pipelines.experiment import Experiment


@pytest.fixture
def cluster() -> Iterator[None]:
    for name, value in fleet._SETTINGS.items():
        os.environ.setdefault(name, value)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray's of its own settings
def test_a_worker_refuses_the_task_of_another_trial(cluster: None, tmp_path: Path) -> None:
    task = WorkerTask(Experiment(), "", 1, (), None, None, 1.0, str(tmp_path / "output"), "")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": task, "run": "theirs"},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="ours", storage_path=str(tmp_path), failure_config=FailureConfig(max_failures=0)
        ),
    )
    with pytest.raises(TrainingFailedError) as caught:
        trainer.fit()
    failure = diagnose(caught.value)
    assert "the gang of 'ours' received what belongs to 'theirs'" in failure.message
    assert not failure.retried


def test_a_report_of_another_trials_worker_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed: list[object] = []
    monkeypatch.setattr(tune, "report", handed.append)
    ours = SimpleNamespace(run_config=SimpleNamespace(name="ours"))
    report = ReportToTune().after_report
    with pytest.raises(WrongTrialError, match="'ours' received what belongs to 'theirs'") as caught:
        report(ours, [{RUN: "ours", "epoch": 1}, {RUN: "theirs", "epoch": 1}], None)  # type: ignore[arg-type]
    assert not handed
    assert not diagnose(ControllerError(caught.value)).retried
    report(ours, [{RUN: "ours", "epoch": 1}, {RUN: "ours", "epoch": 1}], None)  # type: ignore[arg-type]
    assert handed == [{RUN: "ours", "epoch": 1}]
