"""Writes what happens to the trials into the ledger, and shows it."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cells import Cell
from orchestrator.extensions import modules_of
from orchestrator.identity import code_version
from orchestrator.ledger import Record, StudyRun
from orchestrator.progress import StudyProgress
from orchestrator.worker import RESULTS_DIRECTORY
from pipelines.checkpoint import WEIGHTS_FILE, read_history


class Recorder:
    """The study's `fleet.TrialEvents`. run_ids: by trial name; logged: epochs in the ledger."""

    def __init__(
        self,
        study_run: StudyRun,
        progress: StudyProgress,
        cells: Mapping[str, Cell],
        run_ids: Mapping[str, str],
        logged: Mapping[str, set[int]],
        imports: Sequence[str],
        stop_requested: Callable[[], bool],
    ) -> None:
        self.finished_runs: dict[str, Record] = {}
        self.failures: dict[str, str] = {}
        self._study_run = study_run
        self._progress = progress
        self._cells = cells
        self._run_ids = run_ids
        self._logged = logged
        self._imports = imports
        self._stop = stop_requested

    def stop_requested(self) -> bool:
        """Whether the user has asked to stop."""
        return self._stop()

    def started(self, name: str) -> None:
        """The trial's processes are being started."""
        modules = modules_of(self._cells[name].trial.experiment, self._imports)
        self._study_run.start_trial(self._run_ids[name], code_version(modules))
        self._progress.started(name)

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """An epoch was reported."""
        numbers = _training_metrics(metrics)
        self._log(name, int(numbers["epoch"]), numbers)
        self._progress.epoch(name, int(numbers["epoch"]), numbers)

    def finished(self, name: str, outcome: dict[str, Any]) -> None:
        """The trial reached its last epoch; its checkpoints become the run's artifacts."""
        run_id = self._run_ids[name]
        try:
            self._keep_results(
                name, Path(outcome["last_checkpoint"]), Path(outcome["best_checkpoint"])
            )
        except Exception as error:  # the study goes on; this trial is not finished
            self.failed(name, f"its results could not be recorded: {error}")
            return
        self._study_run.end_trial(run_id, "FINISHED")
        self.finished_runs[name] = self._study_run.ledger.record(run_id)
        self._progress.ended(name, "finished")

    def failed(self, name: str, cause: str) -> None:
        """The trial raised an error."""
        if self._stop():
            return  # a worker that was told to stop; the study's end closes the run
        self.failures[name] = cause
        self._study_run.end_trial(self._run_ids[name], "FAILED", cause)
        self._progress.ended(name, "failed", cause)

    def _log(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record an epoch once, also when it is trained again after a crash."""
        if epoch not in self._logged[name]:
            self._study_run.log_epoch(self._run_ids[name], epoch, metrics)
            self._logged[name].add(epoch)

    def _keep_results(self, name: str, last: Path, best: Path) -> None:
        run_id, cell = self._run_ids[name], self._cells[name]
        # The checkpoint's own history fills in what was lost on the way here.
        for metrics in read_history(last):
            self._log(name, int(metrics["epoch"]), metrics)
        self._study_run.ledger.log_artifact(run_id, last / RESULTS_DIRECTORY)
        checkpoints = {"last": last}
        if cell.trial.experiment.data.validation_split is not None:
            checkpoints["best"] = best
        for folder, checkpoint in checkpoints.items():
            with tempfile.TemporaryDirectory() as temporary:
                directory = Path(temporary)
                (directory / WEIGHTS_FILE).symlink_to(checkpoint / WEIGHTS_FILE)
                _describe(directory, cell)
                self._study_run.ledger.log_artifact(run_id, directory, folder)


def _describe(directory: Path, cell: Cell) -> None:
    """Write what, with the weights, makes a model directory: the experiment and the classes."""
    experiment = yaml.safe_dump(_plain(asdict(cell.trial.experiment)), sort_keys=False)
    (directory / "experiment.yaml").write_text(experiment)
    manifest = cell.dataset.manifest
    classes = {
        "dataset": manifest.name,
        "fingerprint": manifest.fingerprint,
        "ignore_index": manifest.ignore_index,
        "classes": [{"name": entry.name, "color": list(entry.color)} for entry in manifest.classes],
    }
    (directory / "classes.yaml").write_text(yaml.safe_dump(classes, sort_keys=False))


def _plain(value: Any) -> Any:
    """Tuples as lists, which is what YAML has."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _training_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The training's own metrics, without what Tune adds to a result."""
    own = ("train/", "val/")
    names = ("epoch", "learning_rate", "images_per_second", "memory_gib")
    return {
        key: float(value) for key, value in result.items() if key.startswith(own) or key in names
    }
