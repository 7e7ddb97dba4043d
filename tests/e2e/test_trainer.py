"""Concurrent trials train independently, and workers reject the task of another trial."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.cluster import connect
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.training.diagnosis import diagnose
from orchestrator.training.group_worker import train_group_worker
from orchestrator.training.worker import WorkerTask
from pipelines.data.dataset import open_dataset
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport
from tests.support.sweep_command import STUDY, runs, sweep


@pytest.mark.slow
def test_concurrent_trials_equal_the_same_trials_trained_one_by_one(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    """Train four trials at a time, then each of them in this process without Ray."""
    file = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets)).replace("CACHE", str(tmp_path / "cache"))
    text = text.replace("epochs: 3", "epochs: 1").replace("workers: 2", "workers: 1")
    file.write_text(text + "seeds: [0, 1]\n")
    # --only also skips the figures.
    done = sweep(file, "--no-preflight", "--only", "strong*", "--only", "full*")
    assert done.returncode == 0, done.stdout
    assert "4 trials at a time" in done.stdout
    _, trials, _ = runs(file)

    study = load_study(file)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a worker with half a core also uses one
    try:
        for trial in resolve_trials(study.trials, "cpu", tmp_path):
            if trial.name not in trials:
                continue
            reports: list[TrainingReport] = []
            training = Training(
                trial.worker_experiment, open_dataset(trial.location), torch.device("cpu")
            )
            training.run(reports.append, None, lambda: False)
            expected = reports[-1].metrics
            assert expected is not None
            recorded = trials[trial.name].data.metrics
            for name in ("train/loss", "val/miou", "val/pixel_accuracy"):
                assert recorded[name] == expected[name], (trial.name, name)
    finally:
        torch.set_num_threads(threads)
    assert len({trial.data.metrics["train/loss"] for trial in trials.values()}) == 4


@pytest.fixture
def cluster() -> Iterator[None]:
    """Start a Ray cluster with one CPU."""
    for name, value in connect._SETTINGS.items():
        os.environ.setdefault(name, value)
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # from Ray itself
def test_worker_rejects_the_task_of_another_trial(cluster: None, tmp_path: Path) -> None:
    task = WorkerTask(Experiment(), "", "", 1, (), None, None, 1.0, str(tmp_path), "")
    trainer = TorchTrainer(
        train_group_worker,
        train_loop_config={"task": task, "run": "theirs"},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="ours", storage_path=str(tmp_path), failure_config=FailureConfig(max_failures=0)
        ),
    )
    with pytest.raises(TrainingFailedError) as caught:
        trainer.fit()
    failure = diagnose(caught.value)
    assert "the workers of 'ours' received data of 'theirs'" in failure.message
    assert not failure.retryable
