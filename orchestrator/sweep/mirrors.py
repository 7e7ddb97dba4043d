"""Copies the metrics of trials to TensorBoard and Weights & Biases.

MLflow is the tracking store; a copy that fails never affects a study.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.console import InputError
from orchestrator.study.mirrors import MirrorOptions, WandbOptions
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.sweep.background_writer import BackgroundWriter
from pipelines import wording

if TYPE_CHECKING:
    import wandb
    from tensorboardX import SummaryWriter

Metrics = Mapping[str, float]

_FINISH_SECONDS = 60.0  # for the upload at the end of a run; without a network, it never ends
_CLOSE_SECONDS = 120.0  # for all copies at the end of a study
_CANCEL_SECONDS = 10.0


class Sink(Protocol):
    """Receives the metrics of trials; a run in MLflow identifies a trial."""

    name: str

    def log(self, trial: ResolvedTrial, run_id: str, metrics: Metrics) -> None:
        """Write an epoch's metrics, among them `epoch`."""

    def end(self, run_id: str, is_finished: bool) -> None:
        """The trial has ended; if it was not finished, a later command may continue it."""


class TensorBoard:
    """Event files below `directory`."""

    name = "TensorBoard"

    def __init__(self, directory: Path, study: str) -> None:
        self._directory = directory / _file_name(study)
        self._writers: dict[str, SummaryWriter] = {}

    def log(self, trial: ResolvedTrial, run_id: str, metrics: Metrics) -> None:
        from tensorboardX import SummaryWriter

        if run_id not in self._writers:
            directory = self._directory / _file_name(trial.name) / run_id[:8]
            # Files of the same second would otherwise have the same name.
            suffix = f".{time.time_ns()}"
            self._writers[run_id] = SummaryWriter(str(directory), filename_suffix=suffix)
        writer = self._writers[run_id]
        for key, value in metrics.items():
            writer.add_scalar(key, value, int(metrics["epoch"]))
        writer.flush()

    def end(self, run_id: str, is_finished: bool) -> None:
        if writer := self._writers.pop(run_id, None):
            writer.close()


class WeightsAndBiases:
    """Runs whose ids are those of MLflow."""

    name = "Weights & Biases"

    def __init__(self, options: WandbOptions, study: str) -> None:
        self._options = options
        self._study = study
        self._runs: dict[str, wandb.Run] = {}

    def log(self, trial: ResolvedTrial, run_id: str, metrics: Metrics) -> None:
        import wandb

        if run_id not in self._runs:
            online = self._options.mode == "online"
            self._runs[run_id] = wandb.init(
                project=self._options.project,
                entity=self._options.entity,
                mode=self._options.mode,
                id=run_id,
                name=trial.name,
                group=self._study,
                config=asdict(trial.experiment),
                resume="allow" if online else None,  # offline, `wandb sync` joins the parts
                reinit="create_new",  # several trials at a time
                settings=wandb.Settings(
                    # Output and load of this process are not those of the trial.
                    silent=True,
                    console="off",
                    x_disable_stats=True,
                    finish_timeout=_FINISH_SECONDS,
                    finish_timeout_raises=True,
                ),
            )
        self._runs[run_id].log(dict(metrics), step=int(metrics["epoch"]))

    def end(self, run_id: str, is_finished: bool) -> None:
        if run := self._runs.pop(run_id, None):
            run.finish(exit_code=0 if is_finished else 1)


class Mirrors:
    """Copies metrics to the sinks of a study's options in the background, in order."""

    def __init__(self, options: MirrorOptions, study: str, warn: Callable[[str], None]) -> None:
        """warn: prints a line; called once for each sink that fails."""
        self._warn = warn
        self._sinks: list[Sink] = []
        if options.tensorboard is not None:
            self._sinks.append(TensorBoard(Path(options.tensorboard).expanduser(), study))
        if options.wandb is not None:
            self._sinks.append(WeightsAndBiases(options.wandb, study))
        self._open: set[str] = set()
        self._writing: Sink | None = None
        self._writer = BackgroundWriter() if self._sinks else None

    def log(self, trial: ResolvedTrial, run_id: str, metrics: Metrics) -> None:
        """Copy the metrics of an epoch, among them `epoch`."""
        self._open.add(run_id)
        copied = dict(metrics)
        self._submit(lambda sink: sink.log(trial, run_id, copied))

    def end(self, run_id: str, is_finished: bool) -> None:
        """Close the copies of a trial that has ended."""
        self._open.discard(run_id)
        self._submit(lambda sink: sink.end(run_id, is_finished))

    def close(self) -> None:
        """Close the copies of all trials, and wait until everything is written, but not for a sink
        that blocks."""
        for run_id in list(self._open):
            self.end(run_id, False)
        if self._writer is not None and not self._writer.drain(_CLOSE_SECONDS):
            self._drop_blocked(_CLOSE_SECONDS)

    def cancel(self) -> None:
        """Stop copying."""
        if self._writer is not None and not self._writer.cancel(_CANCEL_SECONDS):
            self._drop_blocked(_CANCEL_SECONDS)

    def _submit(self, task: Callable[[Sink], None]) -> None:
        if self._writer is not None:
            for sink in self._sinks:
                self._writer.submit(partial(self._run, sink, task), partial(self._drop, sink))

    def _run(self, sink: Sink, task: Callable[[Sink], None]) -> None:
        if sink in self._sinks:
            self._writing = sink
            task(sink)

    def _drop_blocked(self, seconds: float) -> None:
        if self._writing is not None:
            self._drop(self._writing, TimeoutError(f"it did not end within {seconds:.0f} s"))

    def _drop(self, sink: Sink, error: Exception) -> None:
        if sink not in self._sinks:  # it blocked, and failed later
            return
        self._sinks.remove(sink)
        self._warn(
            f"no more metrics are copied to {sink.name} ({wording.cause(error)}); MLflow holds all "
            "of them"
        )


def check_mirrors(options: MirrorOptions) -> None:
    """Check that the copies can be written. Raises InputError."""
    if options.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise InputError(
            "mirror.wandb needs the package wandb; install it with `python -m pip install wandb`"
        )
    if options.tensorboard is None:
        return
    directory = Path(options.tensorboard).expanduser()
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(
            f"mirror.tensorboard is {options.tensorboard}, which cannot be written; name another "
            "directory"
        )


def _file_name(name: str) -> str:
    """Return a name as the name of a folder."""
    return re.sub(r"[/\\:]", "_", name)
