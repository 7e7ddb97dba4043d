"""What the driver of one trial is given."""

from dataclasses import dataclass

from orchestrator.scheduling.capacity import Gang
from orchestrator.storage import Storage
from orchestrator.study.resolve import Cell
from orchestrator.study.study import Plan
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
    takes_room: bool = False
    expected_seconds: float = 0.0
    rank: int = 0


def job_of(
    cell: Cell, run_id: str, plan: Plan, gang: Gang, storage: Storage, stop: str = ""
) -> Job:
    """What the fleet needs to know to train a cell. storage: where its checkpoints lie; stop: the
    stop file that its workers watch, if any."""
    resources = plan.study.resources
    return Job(
        name=cell.trial.name,
        run_name=f"{cell.identity[:16]}-{run_id}",
        task=WorkerTask(
            experiment=cell.experiment,
            dataset=cell.location,
            fingerprint=cell.dataset.manifest.fingerprint,
            threads=max(1, int(resources.cpus_per_worker)),
            imports=plan.study.imports,
            cache=resources.cache(),
            checkpoint_steps=resources.checkpoint_steps,
            share=resources.share(gang.device),
            output=output_directory(storage, run_id),
            stop_file=stop,
        ),
        workers=resources.fewest_workers,
        most_workers=resources.most_workers,
        resources=gang.per_worker,
        use_gpu=gang.device == "cuda",
        retries=resources.retries,
        keep_checkpoints=resources.keep_checkpoints,
        storage=storage.at("trials"),
    )
