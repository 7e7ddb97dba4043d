"""What the driver of one trial is given."""

from dataclasses import dataclass

from orchestrator.scheduling.capacity import Placement
from orchestrator.storage import Storage
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.training.worker import WorkerTask
from orchestrator.training.worker_logs import output_directory


@dataclass(frozen=True)
class Job:
    """A trial that is to be trained: everything the cluster needs to know about it.

    run_name: Train's name of the run, the key under which an interrupted one is resumed.
    task: what each of the `workers` is told; resources: what is reserved for each. most_workers:
    more of them, where there is room. takes_room: whether it starts with all the room there is.
    expected_seconds: how long it is estimated to take; rank: lower ones are started first.
    """

    name: str
    run_name: str
    task: WorkerTask
    workers: int
    resources: dict[str, float]
    use_gpu: bool
    retries: int
    keep_checkpoints: int
    storage: str
    most_workers: int = 0
    may_use_idle: bool = False
    expected_seconds: float = 0.0
    rank: int = 0


def job_of(
    trial: ResolvedTrial,
    run_id: str,
    study: Study,
    placement: Placement,
    storage: Storage,
    stop: str = "",
) -> Job:
    """What the fleet needs to know to train a trial. storage: where its checkpoints lie; stop: the
    stop file that its workers watch, if any."""
    resources = study.config.resources
    return Job(
        name=trial.name,
        run_name=f"{trial.identity[:16]}-{run_id}",
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
        workers=resources.fewest_workers,
        most_workers=resources.most_workers,
        resources=placement.per_worker,
        use_gpu=placement.device == "cuda",
        retries=resources.retries,
        keep_checkpoints=resources.keep_checkpoints,
        storage=storage.at("trials"),
    )
