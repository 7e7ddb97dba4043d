"""run_jobs on a real Ray cluster with drivers that train nothing: order, placement, limits and
early stopping."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle, tune

from orchestrator.cluster import connect
from orchestrator.scheduling.budget import Budget
from orchestrator.scheduling.capacity import DRIVER_RESOURCE
from orchestrator.study.config import EarlyStopping, Limits
from orchestrator.training.failures import Failure, PreemptedError
from orchestrator.training.job import Job
from orchestrator.training.tuner import run_jobs
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from tests.support.jobs import cpu_job, cpu_task

pytestmark = pytest.mark.slow
# Driver processes cannot import this test module, so its functions are pickled by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPOCHS = 9


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    for name, value in connect._SETTINGS.items():
        os.environ.setdefault(name, value)
    ray.init(
        "local",
        num_cpus=4,
        resources={DRIVER_RESOURCE: 1e6},
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def job(
    name: str, workers: int = 1, seconds: float = 1.0, priority: int = 1, retries: int = 0
) -> Job:
    experiment = Experiment(training=TrainingConfig(epochs=EPOCHS, precision="fp32"))
    return cpu_job(
        cpu_task(experiment),
        name,
        epochs=EPOCHS,
        workers=workers,
        retries=retries,
        expected_seconds=seconds,
        priority=priority,
    )


def train(job: Job) -> dict[str, Any]:
    """Report epochs of 0.1 s each, with an mIoU that depends on the trial's name."""
    for epoch in range(1, EPOCHS + 1):
        time.sleep(0.1)
        tune.report({"epoch": epoch, "val/miou": 0.01 * int(job.name) * epoch})
    return {"last_checkpoint": job.name}


class Events:
    """Record the events of all trials and the maximum number of workers at one time."""

    def __init__(self, jobs: list[Job], limits: Limits | None = None) -> None:
        self.workers = {job.name: job.workers for job in jobs}
        self.budget = Budget(limits or Limits(), devices=1)
        self.order: list[str] = []
        self.at_work: set[str] = set()
        self.most_workers = 0
        self.epochs: dict[str, int] = {}
        self.ends: dict[str, str] = {}

    def started(self, name: str) -> None:
        self.budget.started(name)
        self.order.append(name)
        self.at_work.add(name)
        self.most_workers = max(self.most_workers, sum(self.workers[n] for n in self.at_work))

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        self.epochs[name] = metrics["epoch"]

    def checkpoint(self, name: str, metrics: dict[str, Any]) -> None:
        pass

    def interrupted(self, name: str) -> None:
        self.budget.interrupted(name)

    def finished(self, name: str, outcome: dict[str, Any]) -> None:
        assert outcome == {"last_checkpoint": name}
        self._end(name, "finished")

    def failed(self, name: str, failure: Failure) -> None:
        self._end(name, failure.message)

    def stopped_early(self, name: str) -> None:
        self._end(name, "stopped early")

    def paused(self, name: str) -> None:
        self._end(name, "paused")

    def stop_requested(self) -> bool:
        return False

    def pause_requested(self) -> bool:
        return self.budget.pause_reason() is not None

    def may_start(self, pending: int) -> bool:
        return self.budget.may_start(pending)

    def unwanted(self, name: str) -> bool:
        return False

    def _end(self, name: str, outcome: str) -> None:
        self.budget.ended(name, failed=outcome not in ("finished", "paused", "stopped early"))
        self.at_work.discard(name)
        assert name not in self.ends
        self.ends[name] = outcome


def run(jobs: list[Job], directory: Path, events: Events, **options: Any) -> None:
    options.setdefault("run", train)
    run_jobs(jobs, options.pop("max_concurrent", None), events, directory, "study", **options)


def test_trials_start_by_priority_then_by_length_with_all_workers(
    cluster: None, tmp_path: Path
) -> None:
    jobs = [
        job("1", seconds=1.0),
        job("2", workers=3, seconds=9.0),
        job("3", workers=2, seconds=5.0),
        job("4", workers=3, seconds=2.0, priority=0),
        job("5", seconds=8.0),
    ]
    events = Events(jobs)
    run(jobs, tmp_path, events)
    assert events.ends == dict.fromkeys("12345", "finished")
    assert events.most_workers <= 4
    # Trial 4 has priority and leaves one CPU. Trial 2 needs three CPUs and must wait, so trial 5
    # starts on the free one. Trials 4 and 5 start together, in either order.
    assert set(events.order[:2]) == {"4", "5"}
    # Trial 1 may start before trial 2 if it does not delay it; trial 3 would delay it.
    assert events.order.index("2") < events.order.index("3")


def test_no_trial_starts_beyond_the_trial_limit(cluster: None, tmp_path: Path) -> None:
    jobs = [job(str(index), seconds=index) for index in range(1, 6)]
    events = Events(jobs, Limits(trials=2))
    run(jobs, tmp_path, events)
    assert events.ends == {"5": "finished", "4": "finished"}
    assert not events.budget.may_start()


def test_spent_gpu_hours_pause_running_trials_at_their_next_report(
    cluster: None, tmp_path: Path
) -> None:
    jobs = [job(str(index)) for index in range(1, 4)]
    events = Events(jobs, Limits(gpu_hours=0.3 / 3600))
    run(jobs, tmp_path, events, max_concurrent=2)
    assert events.ends == {"1": "paused", "2": "paused"}
    assert all(1 <= epoch < EPOCHS for epoch in events.epochs.values())


def test_a_trial_whose_machine_does_not_come_ends_at_a_pause(cluster: None, tmp_path: Path) -> None:
    class PausedStudy(Events):
        def finished(self, name: str, outcome: dict[str, Any]) -> None:
            super().finished(name, outcome)
            self.budget.pause("a limit")

        def stop_requested(self) -> bool:  # as `Recorder`
            return self.pause_requested() and self.budget.idle()

    jobs = [job("1"), replace(job("2"), resources={"CPU": 64.0})]
    events = PausedStudy(jobs)
    nodes = [{"CPU": 4.0, DRIVER_RESOURCE: 1e6}, {"CPU": 64.0}]  # the second is not started
    run(jobs, tmp_path, events, nodes=lambda: nodes)
    assert events.order == ["1"]
    assert events.ends["1"] == "finished"


def test_no_trial_starts_beyond_the_failure_limit(cluster: None, tmp_path: Path) -> None:
    def fail(job: Job) -> dict[str, Any]:
        raise ValueError("no good")

    jobs = [job(str(index)) for index in range(1, 6)]
    events = Events(jobs, Limits(failures=2))
    run(jobs, tmp_path, events, max_concurrent=1, run=fail)
    assert events.ends == dict.fromkeys("12", "ValueError: no good")


def test_early_stopping_ends_the_worst_trials_without_failing_them(
    cluster: None, tmp_path: Path
) -> None:
    # The best trials start first, so each later trial is worse than all earlier ones.
    jobs = [job(str(index), seconds=index) for index in range(1, 10)]
    events = Events(jobs)
    run(jobs, tmp_path, events, early_stopping=EarlyStopping(grace_epochs=1, reduction=3))
    assert set(events.ends) == {str(index) for index in range(1, 10)}
    assert set(events.ends.values()) == {"finished", "stopped early"}
    assert events.ends["9"] == "finished"
    stopped = [name for name, end in events.ends.items() if end == "stopped early"]
    assert all(events.epochs[name] < EPOCHS for name in stopped)


def test_a_killed_process_is_replaced_before_other_trials_start(
    cluster: None, tmp_path: Path
) -> None:
    def killed_once(job: Job) -> dict[str, Any]:
        if job.name == "1" and job.attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        tune.report({"epoch": 1 + job.attempt, "val/miou": 0.5})
        return {"last_checkpoint": job.name}

    jobs = [job("1", seconds=9, retries=1), job("2"), job("3")]
    # A limit on the trials to start does not keep a started one from being resumed.
    events = Events(jobs, Limits(trials=2))
    run(jobs, tmp_path, events, max_concurrent=1, run=killed_once)
    assert events.ends == dict.fromkeys("12", "finished")
    assert events.order == ["1", "2"]
    assert events.epochs == {"1": 2, "2": 1}


def test_a_trial_whose_process_is_killed_again_and_again_fails(
    cluster: None, tmp_path: Path
) -> None:
    def killed(job: Job) -> dict[str, Any]:
        if job.name == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"last_checkpoint": job.name}

    jobs = [job("1", retries=1), job("2")]
    events = Events(jobs)
    run(jobs, tmp_path, events, max_concurrent=1, run=killed)
    assert events.ends["2"] == "finished"
    assert events.ends["1"].startswith("a worker was lost 2 times, the last time: its process")


def test_a_preempted_trial_resumes_however_often(cluster: None, tmp_path: Path) -> None:
    def preempted(job: Job) -> dict[str, Any]:
        if job.attempt < 2:
            raise PreemptedError("the machine is about to be preempted")
        return {"last_checkpoint": job.name}

    jobs = [job("1")]
    events = Events(jobs)
    run(jobs, tmp_path, events, run=preempted)
    assert events.ends == {"1": "finished"}


def test_the_next_trial_waits_until_a_stopped_one_has_left_its_process(
    cluster: None, tmp_path: Path
) -> None:
    class DeletedTrial(Events):
        def unwanted(self, name: str) -> bool:
            return name == "2"

    def busy(job: Job) -> dict[str, Any]:
        if job.name == "2":
            report = {"epoch": 1, "val/miou": 0.1}
            reporting = threading.Thread(target=tune.report, args=(report,), daemon=True)
            reporting.start()
            time.sleep(4)  # a long validation
            reporting.join()
            sys.exit(0)  # as `tune.report` does in a stopped trial
        return {"last_checkpoint": job.name}

    jobs = [job("1", seconds=1), job("2", seconds=2)]
    events = DeletedTrial(jobs)
    run(jobs, tmp_path, events, max_concurrent=1, run=busy)
    assert events.ends == {"1": "finished"}


def test_a_process_trains_one_trial_after_the_other(cluster: None, tmp_path: Path) -> None:
    def note_process(job: Job) -> dict[str, Any]:
        with (tmp_path / "processes").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"last_checkpoint": job.name}

    jobs = [job(str(index)) for index in range(1, 6)]
    run(jobs, tmp_path, Events(jobs), max_concurrent=1, run=note_process)
    processes = (tmp_path / "processes").read_text().split()
    assert len(processes) == 5
    assert len(set(processes)) == 1
