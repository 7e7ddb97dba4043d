"""Jobs of one worker on a CPU."""

from typing import Any

from orchestrator.training.job import Job
from orchestrator.training.worker import WorkerTask
from pipelines.training.experiment import Experiment


def cpu_task(
    experiment: Experiment | None = None, imports: tuple[str, ...] = (), output: str = ""
) -> WorkerTask:
    return WorkerTask(
        experiment or Experiment(), "", "", 1, imports, None, None, 1.0, output=output, stop_file=""
    )


def cpu_job(task: WorkerTask | None = None, name: str = "a", **options: Any) -> Job:
    """Return a job of two epochs without retries. options: other fields of `Job`."""
    return Job(
        **{
            "name": name,
            "run_name": name,
            "task": task or cpu_task(),
            "epochs": 2,
            "workers": 1,
            "resources": {"CPU": 1.0},
            "use_gpu": False,
            "retries": 0,
            "keep_checkpoints": 1,
            "storage": "",
            **options,
        }
    )
