"""The checkpoints of a trial that trains without Ray Train, in Ray Train's layout.

So a trial that was interrupted with one number of workers can resume with any other.
"""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray import tune
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from orchestrator.training.events import NOTICE
from orchestrator.training.job import Job
from orchestrator.training.worker import SCORE, checkpoint_score
from orchestrator.training.worker_logs import log
from pipelines.data.storage import Location, join_uri
from pipelines.network.checkpoint_damage import damage_of
from pipelines.network.file_names import STATE_FILE

_FOLDER_PREFIX = "checkpoint_"  # of the folders that Ray makes


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


def checkpoints_to_resume(job: Job) -> "TrialCheckpoints":
    """Return the checkpoints of a trial that Tune starts. If some are damaged, say so in this
    process's output and to Tune. Raises OSError if the storage cannot be reached."""
    checkpoints = TrialCheckpoints(job)
    if checkpoints.notice:
        log(checkpoints.notice)
        tune.report({NOTICE: checkpoints.notice})
    return checkpoints


class TrialCheckpoints(CheckpointManager):
    """Stores a job's checkpoints, lists them in a file beside them, and deletes those not kept.

    notice: what is damaged, and from where the training continues; empty if nothing is.
    """

    def __init__(self, job: Job) -> None:
        """Read the list, if there is one. Damaged checkpoints are taken off it, and stay in their
        folders. Raises OSError if the storage cannot be reached."""
        self.notice = ""
        self._job = job
        self._writes_list = True
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
        self._register(stored, metrics)

    def _maybe_load_state_from_storage(self) -> None:
        """Load the list if it and all checkpoints in it are whole; otherwise write it anew."""
        path = self._storage.checkpoint_manager_snapshot_path
        text: str | None = None
        listed: list[tuple[str, dict[str, Any]]] | None = None
        damage: list[str] = []
        try:
            with self._storage.storage_filesystem.open_input_stream(path) as stream:
                text = stream.read().decode()
            listed = _listed(text)
        except FileNotFoundError:
            damage.append(f"{Path(path).name} (it is missing)")
        except (ValueError, KeyError, TypeError):
            damage.append(f"{Path(path).name} (it is incomplete)")
        whole = self._found() if listed is None else []
        if text is None and not whole:
            return  # the trial has not trained yet
        for name, metrics in listed or ():
            if problem := self._damage(name):
                damage.append(f"{name} ({problem})")
            else:
                whole.append((name, metrics))
        if not damage:
            self._load_state(text or "")
            return
        self._writes_list = False  # a process killed between them would leave a part of the list
        for name, metrics in whole:
            self._register(self._checkpoint(name), metrics)
        self._writes_list = True
        self._write_state_to_storage()
        folder = join_uri(self._job.storage, self._job.run_name)
        self.notice = f"damaged in {folder}: {', '.join(damage)}; {self._continuation()}"

    def _found(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the whole checkpoints in the storage with their scores, in the order of their
        epochs. An incomplete one may not have been listed yet when its process was killed."""
        selector = pyarrow.fs.FileSelector(self._storage.experiment_fs_path, allow_not_found=True)
        names = [
            info.base_name
            for info in self._storage.storage_filesystem.get_file_info(selector)
            if info.type == pyarrow.fs.FileType.Directory
            and info.base_name.startswith(_FOLDER_PREFIX)
        ]
        states = {name: self._state(name) for name in names if not self._damage(name)}
        validated = self._job.task.experiment.data.validation_split is not None

        def position(name: str) -> tuple[int, int]:
            return states[name]["position"]["epoch"], states[name]["position"]["step"]

        def score(name: str) -> float:
            within_epoch = position(name)[1] > 0
            return checkpoint_score(
                None if within_epoch else states[name]["history"][-1], validated
            )

        return [(name, {SCORE: score(name)}) for name in sorted(states, key=position)]

    def _damage(self, name: str) -> str:
        averaged = self._job.task.experiment.training.ema is not None
        return damage_of(self._location(name), averaged)

    def _state(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self._location(name).read(STATE_FILE)))

    def _location(self, name: str) -> Location:
        path = self._storage.build_checkpoint_path_from_name(name)
        return Location(path, self._storage.storage_filesystem, path)

    def _checkpoint(self, name: str) -> Checkpoint:
        path = self._storage.build_checkpoint_path_from_name(name)
        return Checkpoint(path, self._storage.storage_filesystem)

    def _continuation(self) -> str:
        """Describe where the training continues."""
        last = self.last()
        if last is None:
            return "it trains from the start"
        name = Path(last.path).name
        return f"it continues from {name}, after epoch {self._state(name)['position']['epoch']}"

    def _register(self, stored: Checkpoint, metrics: dict[str, Any]) -> None:
        self.register_checkpoint(_TrainingReport(stored, metrics, validation=False))

    def _notify(self) -> None:
        """Ray Train's controller waits for changes; this process does not."""

    def _write_state_to_storage(self) -> None:
        """Replace the list atomically, so that a process killed here leaves the old or the new."""
        if not self._writes_list:
            return
        filesystem = self._storage.storage_filesystem
        path = self._storage.checkpoint_manager_snapshot_path
        # An object store replaces a file atomically by itself.
        local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
        target = f"{path}.partial" if local else path
        with filesystem.open_output_stream(target) as stream:
            stream.write(self._save_state().encode())
        if local:
            filesystem.move(target, path)


def _listed(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and metrics in a list of checkpoints, in the order of their reports. Raises
    ValueError, KeyError or TypeError if it is damaged."""
    state = json.loads(text)
    results, order = state["checkpoint_results"], state["checkpoint_report_indices"]
    ordered = sorted(zip(order, results, strict=True), key=lambda pair: pair[0])
    return [(result["checkpoint_dir_name"], result["metrics"]) for _, result in ordered]
