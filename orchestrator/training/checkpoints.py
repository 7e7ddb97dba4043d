"""The checkpoints of a trial that trains without Ray Train, in Ray Train's layout.

So a trial that was interrupted with one number of workers can resume with any other.
"""

import math
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from orchestrator.training.job import Job
from orchestrator.training.worker import SCORE


def checkpoint_config(job: Job) -> CheckpointConfig:
    """Return which checkpoints of a job are kept: the last, and those with the best scores."""
    return CheckpointConfig(
        num_to_keep=job.keep_checkpoints,
        checkpoint_score_attribute=SCORE,
        checkpoint_score_order="max",
    )


def checkpoint_uri(checkpoint: Checkpoint, job: Job) -> str:
    """Return a checkpoint's path, or its URI with the scheme and query of the job's storage."""
    scheme, separator, rest = job.storage.partition("://")
    if not separator:
        return str(checkpoint.path)
    _, mark, query = rest.partition("?")
    return f"{scheme}://{checkpoint.path}{mark}{query}"


class TrialCheckpoints(CheckpointManager):
    """Stores a job's checkpoints, lists them in a file beside them, and deletes those not kept."""

    def __init__(self, job: Job) -> None:
        """Read the list, if there is one. Raises OSError if the storage cannot be reached."""
        self._storage = StorageContext(job.storage, experiment_dir_name=job.run_name)
        super().__init__(checkpoint_config(job), self._storage)

    def last(self) -> Checkpoint | None:
        """Return the last checkpoint; None if there is none."""
        result = self.latest_checkpoint_result
        return result.checkpoint if result else None

    def best(self) -> Checkpoint:
        """Return the checkpoint with the best score. Raises ValueError if there is none."""
        results = self.best_checkpoint_results
        return max(results, key=lambda result: result.metrics.get(SCORE, -math.inf)).checkpoint

    def add(self, directory: Path, metrics: dict[str, Any]) -> None:
        """Copy a checkpoint to the storage, and list it with its metrics. Raises OSError."""
        stored = self._storage.persist_current_checkpoint(
            Checkpoint.from_directory(directory), self._storage.make_default_checkpoint_dir_name()
        )
        self.register_checkpoint(_TrainingReport(stored, metrics, validation=False))

    def _notify(self) -> None:
        """Ray Train's controller waits for changes; this process does not."""

    def _write_state_to_storage(self) -> None:
        """Replace the list atomically, so that a process killed here leaves the old or the new."""
        filesystem = self._storage.storage_filesystem
        path = self._storage.checkpoint_manager_snapshot_path
        # An object store replaces a file atomically by itself.
        local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
        target = f"{path}.partial" if local else path
        with filesystem.open_output_stream(target) as stream:
            stream.write(self._save_state().encode())
        if local:
            filesystem.move(target, path)
