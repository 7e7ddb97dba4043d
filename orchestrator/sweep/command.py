"""The work of `orchestrator.sweep`: load the study, then run it here or submit it to a cluster."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from orchestrator.cluster.address import (
    check_address,
    check_dashboard,
    check_only_planned,
    is_cluster_file,
    is_remote,
)
from orchestrator.console import capture_library_output, run_command, say, warn
from orchestrator.context import STOPPING, RunContext, StopRequest
from orchestrator.storage import Storage, StorageError
from orchestrator.study.load import load_study
from orchestrator.study.study import Study
from orchestrator.study.user_code import modules_by_name
from orchestrator.sweep.options import SweepOptions
from pipelines.command import EXIT_FAILED, EXIT_INTERRUPTED
from pipelines.data.storage import check_no_secret
from pipelines.errors import is_disk_full
from pipelines.imports import after_imports, importing_libraries

# Printed if standard output fails while a study trains.
_CONTINUES = "the study continues; see `orchestrator studies status`"
# A second Ctrl-C within this time belongs to the immediate stop already in progress.
_CLOSING_SECONDS = 10.0


def sweep(file: Path, options: SweepOptions, console: Console) -> int:
    """Run or submit the study of a file; return the command's exit status."""

    def load() -> Study:
        return load_study(file, options.overrides, options.only)

    check_no_secret(options.storage)
    if is_remote(options.address):
        return submit(load(), options, console)
    with open_log(options) as (storage, terminal, log):

        def run(console: Console) -> int:
            with stop_on_signals(console) as stop, readable_disk_errors(storage):
                study = load()
                context = run_context(options, storage, log, console, stop)
                finished = run_here(study, context, options)
            if stop.requested:
                return EXIT_INTERRUPTED
            return 0 if finished else EXIT_FAILED

        return run_command(
            run,
            terminal,
            log=log,
            interrupted="stopped"
            if options.plan
            else "stopped immediately; run the same command again to resume",
        )


@contextmanager
def open_log(
    options: SweepOptions, continues: str | None = None
) -> Iterator[tuple[Storage, Console, Path]]:
    """Check `--address`, create the storage, and redirect the libraries' output to a log there;
    see `capture_library_output`. continues: by default, a plan ends and a study continues."""
    if is_cluster_file(options.address):
        check_only_planned(options.address, options.plan)
    elif options.address:
        check_address(options.address)  # before libraries that take seconds to import
    storage = Storage.parse(options.storage)
    storage.create(holds_ledger="MLFLOW_TRACKING_URI" not in os.environ)
    if continues is None:
        continues = "" if options.plan else _CONTINUES
    with capture_library_output(storage.local / "logs", continues) as (terminal, log):
        yield storage, terminal, log


@contextmanager
def readable_disk_errors(storage: Storage) -> Iterator[None]:
    """Within this context, raise StorageError if a disk is full."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        from orchestrator.sweep.disk_space import disk_full_message  # imports slow libraries

        raise StorageError(disk_full_message(storage)) from None


def run_context(
    options: SweepOptions, storage: Storage, log: Path, console: Console, stop: StopRequest
) -> RunContext:
    """Return the context of a run with these options."""
    return RunContext(
        storage,
        options.address,
        console,
        log,
        stop,
        preflight=options.preflight,
        command=_resume_command(options),
    )


def run_here(study: Study, context: RunContext, options: SweepOptions) -> bool:
    """Run or plan the study from this machine; return whether all trials are finished."""
    for warning in study.warnings:
        warn(context.console, str(warning))
    with importing_libraries():  # a broken study is reported before
        from orchestrator.planning.reconcile import ReconcileOptions
        from orchestrator.sweep.run import run_study
    reconcile_options = ReconcileOptions(options.retry_failed, options.retrain_stale)
    return run_study(study, context, reconcile_options, options.plan)


def submit(study: Study, options: SweepOptions, console: Console) -> int:
    """Submit the study to the cluster whose dashboard is at `--address`, and follow its output."""
    assert options.address is not None
    arguments = options.job_arguments
    with importing_libraries():
        from orchestrator.cluster.submit import check_before_submit, submit_study
    check_before_submit(study, arguments)
    check_dashboard(options.address)
    experiments = (trial.experiment for trial in study.trials)
    modules = modules_by_name(experiments, study.config.user_code)
    return submit_study(
        study.config.study,
        study.resolved,
        list(modules.values()),
        arguments,
        options.address,
        options.storage,
        console,
    )


def _resume_command(options: SweepOptions) -> str:
    """Return what `orchestrator.studies resume` needs in addition to the resolved study."""
    return json.dumps(
        {
            "directory": str(Path.cwd()),
            "only": list(options.only),
            "set": options.override_texts,
            "address": options.address,
        }
    )


@contextmanager
def stop_on_signals(console: Console, is_command: bool = True) -> Iterator[StopRequest]:
    """Within this context, turn SIGINT, SIGTERM and SIGHUP into requests to stop.

    is_command: the process ends after the context, and ignores further signals during a stop.
    Otherwise, the context ends with KeyboardInterrupt after a stop by SIGINT, and with SystemExit
    after the other signals.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread receives signals
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        now, stop.signal = time.monotonic(), number
        if stop.aborted_at is not None and now - stop.aborted_at < _CLOSING_SECONDS:
            return  # the runs are being closed
        if stop.requested or not stop.graceful:
            stop.aborted_at = now
            raise KeyboardInterrupt
        stop.requested = True
        say(console, f"\nstopping: {STOPPING} (repeat to stop immediately)")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    on_signal = handle if is_command else after_imports(handle)
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield stop
        if stop.signal is not None and not is_command:
            raise KeyboardInterrupt  # or a loop over studies would continue with the next one
    except KeyboardInterrupt:
        if is_command or stop.signal in (None, signal.SIGINT):
            raise
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        is_stopping = stop.requested or stop.aborted_at is not None
        for number, handler in previous.items():
            # Ignore further signals during a stop: there is nothing left to stop.
            signal.signal(number, signal.SIG_IGN if is_stopping and is_command else handler)
