"""The work of `orchestrator.studies`: list, follow, stop and resume the studies of a store."""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestrator.console import open_console, say, say_labeled
from orchestrator.storage import Storage
from orchestrator.studies.stored import (
    find_study,
    recorded_study,
    runs_of_trial,
    store_of,
)
from orchestrator.studies.tables import studies_table, trials_table
from orchestrator.sweep.command import sweep
from orchestrator.tracking.connection import database_file
from orchestrator.tracking.lock import request_stop
from orchestrator.tracking.queries import is_training, read_snapshot
from orchestrator.tracking.relocation import record_current_paths
from orchestrator.tracking.store import TrackingError
from orchestrator.tracking.superseded import newest
from orchestrator.training.worker_logs import (
    logs_command,
    output_directory,
    output_file,
    read_output,
)
from pipelines.wording import counted

_POLL_SECONDS = 1.0


def _list(options: argparse.Namespace, console: Console) -> int:
    store = store_of(options)
    studies = read_snapshot(store).studies
    if studies:
        console.print(studies_table(studies))
    else:
        file = database_file(store.tracking_uri)
        place = options.tracking or (file.parent if file else store.display_uri)
        say(console, f"no studies in {place}")
    return 0


def _status(options: argparse.Namespace, console: Console) -> int:
    store = store_of(options)
    study = find_study(store, options.study)
    console.print(studies_table([study]))
    console.print(trials_table(study))
    for run in study.trials:
        if run.status == "FAILED":
            say_labeled(console, "failed", "bold red", f"{run.name}: {run.reason}")
            command = logs_command(run.name, run.study, options.storage)
            say(console, f"  output: {command}", style="dim")
    say(console, f"\n{store.viewing_instructions(study.experiment_id, study.parent_id)}")
    return 0


def _logs(options: argparse.Namespace, console: Console) -> int:
    store = store_of(options)
    runs = runs_of_trial(store, options.trial, options.study)
    trial = newest(runs)
    follow = options.follow and not store.replica  # a replica does not change
    if options.trial not in (trial.name, trial.labeled_name, trial.run_id):
        message = f"{options.trial} is called {trial.name} since its study was edited"
        say(open_console(sys.stderr), message, style="dim")
    if len(runs) > 1:
        others = ", ".join(run.run_id for run in runs if run is not trial)
        message = f"{len(runs)} runs are called {trial.name}; this is run {trial.run_id}, "
        message += "the latest" + (", which the study does not have any more" * trial.superseded)
        say(open_console(sys.stderr), f"{message}. The others: {others}", style="dim")
    storage = Storage.parse(options.storage)
    log = output_file(output_directory(storage, trial.run_id), options.worker)
    text = read_output(log)
    if text is None and follow and is_training(store, trial.run_id):
        done = "printed anything" if trial.started else "started"
        say(console, f"{trial.name} has not {done} yet", style="dim")
    elif text is None and not trial.started:
        raise TrackingError(
            f"trial {trial.name!r} has not started (state: {trial.state}), so it has no log"
        )
    elif text is None:
        with tempfile.TemporaryDirectory() as temporary:
            name = f"worker-{options.worker}.log"
            try:
                saved = store.download(f"runs:/{trial.run_id}/logs/{name}", Path(temporary))
            except TrackingError:
                raise TrackingError(
                    f"trial {trial.name!r} has no log of worker {options.worker}"
                ) from None
            text = saved.read_text(errors="replace")
    printed = 0
    while True:
        is_last = not (follow and is_training(store, trial.run_id))
        text = read_output(log) or text or ""
        sys.stdout.write(text[printed:])
        sys.stdout.flush()
        printed = len(text)
        if is_last:
            return 0
        time.sleep(_POLL_SECONDS)


def _stop(options: argparse.Namespace, console: Console) -> int:
    store = store_of(options)
    study = find_study(store, options.study)
    if study.lock_holder is None:
        say(console, f"study {study.name!r} is not running; nothing to stop")
        return 0
    request_stop(store, study)
    say(
        console,
        f"asked {study.lock_holder.owner.description} to stop; its trials write a checkpoint and "
        "end (waiting until they have; Ctrl-C ends the wait, not the stop)",
    )
    while find_study(store, study.name).lock_holder is not None:
        time.sleep(_POLL_SECONDS)
    say(console, f"study {study.name!r} is stopped; `resume` continues it")
    return 0


def _resume(options: argparse.Namespace, console: Console) -> int:
    store = store_of(options)
    storage = Storage.parse(options.storage).shared
    with recorded_study(store, find_study(store, options.study)) as (file, recorded):
        address = options.address or recorded.address or "local"
        if address != (options.address or "local"):
            message = f"on the cluster of the last run, {address}"
            say(console, f"{message}; --address names another, or local")
        sweep_options = replace(
            recorded,
            storage=storage,
            address=None if address == "local" else address,
            retry_failed=options.retry_failed,
            retrain_stale=options.retrain_stale,
        )
        return sweep(file, sweep_options, console)


def _relocate(options: argparse.Namespace, console: Console) -> int:
    store = store_of(options)
    file = database_file(store.tracking_uri)
    if file is None:
        raise TrackingError(
            f"MLflow at {store.display_uri} records where its artifacts are; only a local storage "
            "can be moved"
        )
    for study in read_snapshot(store).studies:
        if study.state == "running" and study.lock_holder is not None:
            raise TrackingError(
                f"study {study.name!r} is being run by {study.lock_holder.owner.description}; "
                "stop it first"
            )
    changed = record_current_paths(file)
    say(console, f"{counted(changed, 'path')} of artifacts changed to {file.parent}")
    return 0


def _compare(options: argparse.Namespace, console: Console) -> int:
    from orchestrator.studies.comparison import compare_studies  # imports matplotlib

    return compare_studies(options, console)


COMMANDS = {
    "list": _list,
    "status": _status,
    "logs": _logs,
    "stop": _stop,
    "resume": _resume,
    "compare": _compare,
    "relocate": _relocate,
}
