"""The job of training one trial: everything that its driver and its workers need to know."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.scheduling.capacity import Placement
from orchestrator.storage import Storage
from orchestrator.study.identity import training_name
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import has_user_code
from orchestrator.training.worker import WorkerTask
from orchestrator.training.worker_logs import output_directory


@dataclass(frozen=True)
class Job:
    """A trial to train on the cluster.

    run_name: name of the Ray Train run, which identifies it when it is resumed.
    task: passed to each of the `workers`.
    epochs: of the whole training.
    resources: of each worker.
    storage: path or URI of the directory for checkpoints.
    most_workers: upper limit where idle resources allow more than `workers`.
    may_use_idle: whether it starts with all idle resources instead of `workers` only.
    ranked_among: name of the trials that early stopping ranks it among: the samples of its row in a
        search that samples, otherwise all.
    expected_seconds: estimated duration.
    priority: lower values start first.
    attempt: number of earlier attempts, which lost their workers.
    """

    name: str
    run_name: str
    task: WorkerTask
    epochs: int
    workers: int
    resources: dict[str, float]
    use_gpu: bool
    retries: int
    keep_checkpoints: int
    storage: str
    most_workers: int = 0
    may_use_idle: bool = False
    ranked_among: str = ""
    expected_seconds: float = 0.0
    priority: int = 0
    attempt: int = 0

    @property
    def single_worker(self) -> bool:
        """Whether the process of the trial's Tune function is its only worker."""
        return max(self.workers, self.most_workers) == 1

    @property
    def has_user_code(self) -> bool:
        """Whether the training imports user code."""
        return has_user_code(self.task.experiment, self.task.imports)


def ranked_among(trial: Trial) -> str:
    """Return `Job.ranked_among` of a trial."""
    return "" if trial.sample is None else ", ".join(trial.cell)


def job_of(
    trial: ResolvedTrial,
    run_id: str,
    study: Study,
    placement: Placement,
    storage: Storage,
    stop: str = "",
) -> Job:
    """Return the job of training a trial.

    run_id: of its MLflow run.
    storage: for its checkpoints and its workers' logs.
    stop: path or URI of the stop file that its workers watch; empty for none.
    """
    resources = study.config.resources
    return Job(
        name=trial.name,
        run_name=training_name(trial.identity, run_id),
        task=WorkerTask(
            experiment=trial.worker_experiment,
            dataset=trial.location,
            fingerprint=trial.dataset.manifest.fingerprint,
            threads=max(1, int(resources.cpus_per_worker)),
            imports=study.config.imports,
            cache=resources.cache(),
            checkpoint_steps=resources.checkpoint_steps,
            share=resources.share(placement.device),
            output=output_directory(storage, run_id),
            stop_file=stop,
        ),
        epochs=trial.duration.epochs,
        workers=resources.fewest_workers,
        most_workers=resources.most_workers,
        resources=placement.per_worker,
        use_gpu=placement.device == "cuda",
        retries=resources.retries,
        keep_checkpoints=resources.keep_checkpoints,
        storage=storage.trials,
        ranked_among=ranked_among(trial),
    )


def is_last(job: Job, result: Mapping[str, Any]) -> bool:
    """Whether a report is that of the job's last epoch."""
    return bool(result.get("epoch") == job.epochs)
