"""`python -m orchestrator.studies`: list, inspect, stop, and resume studies from any terminal.

`list` shows all studies in the storage, `status STUDY` its trials, `logs TRIAL` the output of a
trial's workers. `stop STUDY` gracefully stops the command that runs the study, on whatever host,
and `resume STUDY` continues it with the options of its last run.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import chdir, nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.console import open_console, run_command, say, say_labeled
from orchestrator.storage import Storage
from orchestrator.study.validation import suggestion
from orchestrator.sweep.__main__ import main as sweep_main
from orchestrator.tracking.lock import close_abandoned, request_stop
from orchestrator.tracking.queries import StudySummary, take_snapshot
from orchestrator.tracking.replica import add_tracking_option
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingError, TrackingStore, open_existing_store
from orchestrator.tracking.superseded import newest
from orchestrator.training.worker_logs import output_directory, output_file, read_output
from pipelines.data.storage import check_no_secret

_POLL_SECONDS = 1.0

# A trial that the study had before its file was edited.
_SUPERSEDED = "not in the study any more"

_STYLES = {"running": "cyan", "finished": "green", "failed": "bold red", "interrupted": "yellow"}


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.studies"
) -> int:
    """Run the command; return its exit status: 0 done, 2 bad input, 130 interrupted; `resume`
    returns the exit status of `orchestrator.sweep`."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _COMMANDS[options.command](options, console))


def _list(options: argparse.Namespace, console: Console) -> int:
    studies = take_snapshot(_open_store(options)).studies
    if studies:
        console.print(studies_table(studies))
    else:
        say(console, f"no studies in {options.tracking or _local_storage(options)}")
    return 0


def _status(options: argparse.Namespace, console: Console) -> int:
    store = _open_store(options)
    study = _find_study(take_snapshot(store).studies, options.study)
    console.print(studies_table([study]))
    console.print(trials_table(study))
    for run in study.trials:
        if run.status == "FAILED":
            say_labeled(console, "failed", "bold red", f"{run.name}: {run.reason}")
    say(console, f"\n{store.viewing_instructions(study.experiment_id, study.parent_id)}")
    return 0


def _logs(options: argparse.Namespace, console: Console) -> int:
    store = _open_store(options)
    runs = _find_runs(take_snapshot(store).studies, options.trial, options.study)
    trial = newest(runs)
    follow = options.follow and not store.replica  # a replica does not change
    if len(runs) > 1:
        others = ", ".join(run.run_id for run in runs if run is not trial)
        message = f"{len(runs)} runs are called {trial.name}; this is run {trial.run_id}, "
        message += "the latest" + (", which the study does not have any more" * trial.superseded)
        say(open_console(sys.stderr), f"{message}. The others: {others}", style="dim")
    storage = Storage.parse(options.storage)
    log = output_file(output_directory(storage, trial.run_id), options.worker)
    text = read_output(log)
    if text is None and follow and _is_open(store, trial):
        say(console, f"{trial.name} has not printed anything yet", style="dim")
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
        is_last = not (follow and _is_open(store, trial))
        text = read_output(log) or text or ""
        sys.stdout.write(text[printed:])
        sys.stdout.flush()
        printed = len(text)
        if is_last:
            return 0
        time.sleep(_POLL_SECONDS)


def _stop(options: argparse.Namespace, console: Console) -> int:
    store = _open_store(options)
    study = _find_study(take_snapshot(store).studies, options.study)
    if study.holder is None:
        say(console, f"study {study.name!r} is not running; nothing to stop")
        return 0
    request_stop(store, study)
    say(
        console,
        f"asked {study.holder[0].description} to stop; its trials write a checkpoint and end "
        "(waiting until they have; Ctrl-C ends the wait, not the stop)",
    )
    while _find_study(take_snapshot(store).studies, study.name).holder is not None:
        time.sleep(_POLL_SECONDS)
    say(console, f"study {study.name!r} is stopped; `resume` continues it")
    return 0


def _resume(options: argparse.Namespace, console: Console) -> int:
    store = _open_store(options)
    study = _find_study(take_snapshot(store).studies, options.study)
    command = json.loads(study.command or "{}")
    directory = Path(command.get("directory", "."))
    arguments = [
        f"--storage={Storage.parse(options.storage).shared}",
        *[f"--{name}={text}" for name in ("only", "set") for text in command.get(name, [])],
    ]
    arguments += [f"--address={options.address}"] if options.address else []
    arguments += ["--retry-failed"] if options.retry_failed else []
    arguments += ["--retrain-stale"] if options.retrain_stale else []
    with tempfile.TemporaryDirectory() as temporary:
        uri = f"runs:/{study.parent_id}/study.resolved.yaml"
        file = store.download(uri, Path(temporary))
        # The study's relative paths and modules refer to the directory in which it was started.
        sys.path.insert(0, str(directory.resolve()))
        with chdir(directory) if directory.is_dir() else nullcontext():
            return sweep_main([str(file), *arguments])


_COMMANDS = {
    "list": _list,
    "status": _status,
    "logs": _logs,
    "stop": _stop,
    "resume": _resume,
}


def _local_storage(options: argparse.Namespace) -> Path:
    return Storage.parse(options.storage).local


def _open_store(options: argparse.Namespace) -> TrackingStore:
    """Open the tracking store and close the runs of dead processes. Raises TrackingError."""
    check_no_secret(options.storage)
    store = open_existing_store(_local_storage(options), getattr(options, "tracking", None))
    if not store.replica:
        close_abandoned(store)
    return store


def _find_study(studies: Sequence[StudySummary], name: str) -> StudySummary:
    for study in studies:
        if study.name == name:
            return study
    names = [study.name for study in studies]
    raise TrackingError(f"no study is called {name!r}; {suggestion(name, names)}")


def _find_runs(studies: Sequence[StudySummary], name: str, study: str | None) -> Sequence[TrialRun]:
    """Return all runs of the trial called `name`, or the run with that id."""
    if study is not None:
        studies = [_find_study(studies, study)]
    runs = [run for each in studies for run in each.trials]
    matches = [run for run in runs if name in (run.name, run.run_id)]
    if not matches:
        names = sorted({run.name for run in runs})
        raise TrackingError(f"no trial is called {name!r}; {suggestion(name, names)}")
    owners = sorted({run.study for run in matches})
    if len(owners) > 1:
        raise TrackingError(
            f"several studies have a trial {name!r}: {', '.join(owners)}; choose one with --study"
        )
    return matches


def _is_open(store: TrackingStore, trial: TrialRun) -> bool:
    return store.trial_run(trial.run_id).status in ("SCHEDULED", "RUNNING")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="List, inspect, stop, and resume studies from any terminal.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--storage",
        default="storage",
        metavar="DIR|URI",
        help="the studies' storage, as for orchestrator.sweep (default: ./storage)",
    )
    reading = argparse.ArgumentParser(add_help=False)
    add_tracking_option(reading)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        parents = [common] if name in ("stop", "resume") else [common, reading]
        return commands.add_parser(name, help=text, description=text, parents=parents)

    add("list", "List all studies: state, trials, best mIoU.")
    add("status", "Show all trials of a study.").add_argument("study", metavar="STUDY")
    logs = add(
        "logs", "Print the output of a trial's workers: of its latest run, if it has several."
    )
    logs.add_argument("trial", metavar="TRIAL", help="its name in the study, or its run id")
    logs.add_argument("--study", help="required if several studies have a trial of that name")
    logs.add_argument(
        "--worker", type=int, default=0, metavar="RANK", help="rank of the worker (default: 0)"
    )
    logs.add_argument("--follow", action="store_true", help="keep printing until the trial ends")
    add("stop", "Gracefully stop a running study, on whatever host.").add_argument(
        "study", metavar="STUDY"
    )
    resume = add("resume", "Continue a study with the options of its last run, from any directory.")
    resume.add_argument("study", metavar="STUDY")
    for option in ("--retry-failed", "--retrain-stale"):
        resume.add_argument(option, action="store_true", help="as for orchestrator.sweep")
    resume.add_argument("--address", help="a running Ray cluster, as for orchestrator.sweep")
    return parser


def studies_table(studies: Sequence[StudySummary]) -> Table:
    """Return a table of studies: state, trials by state, best mIoU, and the process running it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("study", "state", "trials", "best mIoU %", "started", "run by"):
        table.add_column(name, justify="right" if name == "best mIoU %" else "left")
    for study in studies:
        state = "stopping" if study.holder and study.stop_requested else study.state
        table.add_row(
            study.name,
            Text(state, style=_STYLES[study.state]),
            _trial_counts(study),
            _best(study.trials),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(study.started)),
            f"{study.holder[0].description}, {study.holder[1]:.0f} s ago" if study.holder else "",
        )
    return table


def trials_table(study: StudySummary) -> Table:
    """Return a table of trials: state, epoch, mIoU, loss, speed, hours. Trials that the study does
    not have any more come last."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    columns = ("trial", "state", "epoch", "mIoU %", "best %", "loss", "images/s", "hours", "run")
    for name in columns:
        table.add_column(name, justify="left" if name in ("trial", "state", "run") else "right")
    for run in sorted(study.trials, key=lambda run: (run.superseded, run.name)):
        metrics = run.metrics
        state = Text(run.state, style=run.state.style)
        if run.superseded:
            state = Text(f"{run.state}, {_SUPERSEDED}", style="dim")
        table.add_row(
            run.name,
            state,
            str(run.epoch),
            _format(metrics.get("val/miou"), 100, ".1f"),
            _format(metrics.get("val/best_miou"), 100, ".1f"),
            _format(metrics.get("train/loss"), 1, ".3f"),
            _format(metrics.get("images_per_second"), 1, ".0f"),
            _format(metrics.get("trial/seconds"), 1 / 3600, ".2f"),
            run.run_id[:8],
        )
    return table


def _trial_counts(study: StudySummary) -> str:
    counts = Counter(str(run.state) for run in study.trials if not run.superseded)
    if study.links:
        counts["linked"] = study.links
    superseded = sum(run.superseded for run in study.trials)
    if superseded:
        counts[_SUPERSEDED] = superseded
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _best(trials: Sequence[TrialRun]) -> str:
    scores = [
        run.metrics["val/miou"]
        for run in trials
        if not run.superseded and "val/miou" in run.metrics
    ]
    return f"{100 * max(scores):.1f}" if scores else ""


def _format(value: float | None, scale: float, spec: str) -> str:
    return "" if value is None else format(scale * value, spec)


if __name__ == "__main__":
    sys.exit(main())
