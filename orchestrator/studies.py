"""`python -m orchestrator.studies`: which studies there are, how far they are, and what to do with
them from any terminal.

`list` shows all studies of the storage, `status STUDY` every trial of one, `logs TRIAL` what its
workers print, `stop STUDY` has the command that runs it stop gracefully, wherever it runs, and
`resume STUDY` goes on with it as it was last run.
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

from orchestrator.storage import Storage
from orchestrator.study.validation import suggestion
from orchestrator.sweep.__main__ import main as sweep_main
from orchestrator.tracking.lock import ask_to_stop, close_abandoned
from orchestrator.tracking.queries import StudySummary, take_snapshot
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingError, TrackingStore, tracking_uri
from orchestrator.training.worker_logs import output_directory, output_file, read_output

EXIT_BAD_INPUT = 2

EXIT_INTERRUPTED = 130

_POLL_SECONDS = 1.0

_STYLES = {"running": "cyan", "finished": "green", "failed": "bold red", "interrupted": "yellow"}


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.studies"
) -> int:
    """Run the command; returns its exit status: 0 done, 2 bad input, 130 interrupted; `resume` has
    those of `orchestrator.sweep`."""
    options = _parser(prog).parse_args(arguments)
    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else 110, soft_wrap=not terminal)
    try:
        return _COMMANDS[options.command](options, console)
    except TrackingError as error:
        console.print(f"[bold red]error[/] {error}", soft_wrap=True)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _list(options: argparse.Namespace, console: Console) -> int:
    views = take_snapshot(_store(options)).studies
    if views:
        console.print(studies_table(views))
    else:
        console.print(f"no studies yet in {_storage(options)}")
    return 0


def _status(options: argparse.Namespace, console: Console) -> int:
    store = _store(options)
    view = _study(take_snapshot(store).studies, options.study)
    console.print(studies_table([view]))
    console.print(trials_table(view))
    for record in view.trials:
        if record.status == "FAILED":
            console.print(f"[bold red]failed[/]  {record.name}: ", end="")
            console.print(record.reason, markup=False, soft_wrap=True)
    console.print(f"\n{store.how_to_look(view.experiment_id)}", soft_wrap=True)
    return 0


def _logs(options: argparse.Namespace, console: Console) -> int:
    store = _store(options)
    trial = _trial(take_snapshot(store).studies, options.trial, options.study)
    place = output_file(output_directory(Storage.of(options.storage), trial.run_id), options.worker)
    text = read_output(place)
    if text is None and options.follow and _is_open(store, trial):
        console.print(f"{trial.name} has printed nothing yet", style="dim")
    elif text is None:
        with tempfile.TemporaryDirectory() as temporary:
            name = f"worker-{options.worker}.log"
            try:
                kept = store.download(f"runs:/{trial.run_id}/logs/{name}", Path(temporary))
            except TrackingError:
                told = f"{trial.name!r} has kept nothing that a worker {options.worker} printed"
                raise TrackingError(told) from None
            text = kept.read_text(errors="replace")
    shown = 0
    while True:
        last = not (options.follow and _is_open(store, trial))
        text = read_output(place) or text or ""
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        if last:
            return 0
        time.sleep(_POLL_SECONDS)


def _stop(options: argparse.Namespace, console: Console) -> int:
    store = _store(options)
    view = _study(take_snapshot(store).studies, options.study)
    if view.holder is None:
        console.print(f"the study {view.name!r} is not running; nothing to stop")
        return 0
    ask_to_stop(store, view)
    console.print(
        f"asked {view.holder[0].described} to stop; its trials write a checkpoint and end "
        "(waiting for it; Ctrl-C leaves it to itself)"
    )
    while _study(take_snapshot(store).studies, view.name).holder is not None:
        time.sleep(_POLL_SECONDS)
    console.print(f"the study {view.name!r} is stopped; `resume` goes on with it")
    return 0


def _resume(options: argparse.Namespace, console: Console) -> int:
    store = _store(options)
    view = _study(take_snapshot(store).studies, options.study)
    command = json.loads(view.command or "{}")
    there = Path(command.get("directory", "."))
    line = [
        f"--storage={Storage.of(options.storage).shared}",
        *[f"--{name}={text}" for name in ("only", "set") for text in command.get(name, [])],
    ]
    line += [f"--address={options.address}"] if options.address else []
    line += ["--retry-failed"] if options.retry_failed else []
    line += ["--retrain-stale"] if options.retrain_stale else []
    with tempfile.TemporaryDirectory() as temporary:
        uri = f"runs:/{view.parent_id}/study.resolved.yaml"
        file = store.download(uri, Path(temporary))
        # Relative paths and modules in the study mean what they meant when it was begun.
        sys.path.insert(0, str(there.resolve()))
        with chdir(there) if there.is_dir() else nullcontext():
            return sweep_main([str(file), *line])


_COMMANDS = {
    "list": _list,
    "status": _status,
    "logs": _logs,
    "stop": _stop,
    "resume": _resume,
}


def _storage(options: argparse.Namespace) -> Path:
    return Storage.of(options.storage).here


def _store(options: argparse.Namespace) -> TrackingStore:
    """The ledger, with the truth about what dead processes left. Raises TrackingError."""
    uri = tracking_uri(_storage(options))
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        raise TrackingError(
            f"there is no ledger at {file}; name the storage of the studies with --storage, or the "
            "tracking server with MLFLOW_TRACKING_URI"
        )
    store = TrackingStore(uri, None)
    close_abandoned(store)
    return store


def _study(views: Sequence[StudySummary], name: str) -> StudySummary:
    for view in views:
        if view.name == name:
            return view
    names = [view.name for view in views]
    raise TrackingError(f"no study is called {name!r}; {suggestion(name, names)}")


def _trial(views: Sequence[StudySummary], name: str, study: str | None) -> TrialRun:
    """The latest run of the trial called `name`, or with that run id."""
    if study is not None:
        views = [_study(views, study)]
    records = [record for view in views for record in view.trials]
    found = [record for record in records if name in (record.name, record.run_id)]
    if not found:
        names = sorted({record.name for record in records})
        raise TrackingError(f"no trial is called {name!r}; {suggestion(name, names)}")
    inside = sorted({record.study for record in found})
    if len(inside) > 1:
        raise TrackingError(
            f"{name!r} is a trial of several studies: {', '.join(inside)}; name one with --study"
        )
    return found[-1]


def _is_open(store: TrackingStore, trial: TrialRun) -> bool:
    return store.trial_run(trial.run_id).status in ("SCHEDULED", "RUNNING")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Studies from any terminal: which there are, how far they are; stop, resume.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--storage",
        default="storage",
        metavar="DIR",
        help="of the studies, as for orchestrator.sweep (default: ./storage)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, told: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=told, description=told, parents=[common])

    add("list", "All studies: state, trials, best mIoU.")
    add("status", "Every trial of a study.").add_argument("study", metavar="STUDY")
    logs = add("logs", "What a trial's workers print.")
    logs.add_argument("trial", metavar="TRIAL", help="its name in the study, or its run's id")
    logs.add_argument("--study", help="where several studies have a trial of that name")
    logs.add_argument(
        "--worker", type=int, default=0, metavar="RANK", help="which one (default: 0)"
    )
    logs.add_argument("--follow", action="store_true", help="go on until the trial ends")
    add("stop", "Stop a running study gracefully, wherever it runs.").add_argument(
        "study", metavar="STUDY"
    )
    resume = add("resume", "Go on with a study as it was last run, from any directory.")
    resume.add_argument("study", metavar="STUDY")
    for option in ("--retry-failed", "--retrain-stale"):
        resume.add_argument(option, action="store_true", help="as for orchestrator.sweep")
    resume.add_argument("--address", help="a running Ray cluster, as for orchestrator.sweep")
    return parser


def studies_table(views: Sequence[StudySummary]) -> Table:
    """A row for each study: state, trials by state, best mIoU, who runs it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("study", "state", "trials", "best mIoU %", "begun", "run by"):
        table.add_column(name, justify="right" if name == "best mIoU %" else "left")
    for view in views:
        state = "stopping" if view.holder and view.stop_requested else view.state
        table.add_row(
            view.name,
            Text(state, style=_STYLES[view.state]),
            _counted(view),
            _best(view.trials),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(view.started)),
            f"{view.holder[0].described}, {view.holder[1]:.0f} s ago" if view.holder else "",
        )
    return table


def trials_table(view: StudySummary) -> Table:
    """A row for each trial: state, epoch, mIoU, loss, speed, hours."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    columns = ("trial", "state", "epoch", "mIoU %", "best %", "loss", "images/s", "hours", "run")
    for name in columns:
        table.add_column(name, justify="left" if name in ("trial", "state", "run") else "right")
    for record in view.trials:
        figures = record.metrics
        table.add_row(
            record.name,
            Text(record.state, style=record.state.style),
            str(record.epoch),
            _figure(figures.get("val/miou"), 100, ".1f"),
            _figure(figures.get("val/best_miou"), 100, ".1f"),
            _figure(figures.get("train/loss"), 1, ".3f"),
            _figure(figures.get("images_per_second"), 1, ".0f"),
            _figure(figures.get("trial/seconds"), 1 / 3600, ".2f"),
            record.run_id[:8],
        )
    return table


def _counted(view: StudySummary) -> str:
    counts = Counter(str(record.state) for record in view.trials)
    if view.links:
        counts["linked"] = view.links
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _best(trials: Sequence[TrialRun]) -> str:
    figures = [r.metrics["val/miou"] for r in trials if "val/miou" in r.metrics]
    return f"{100 * max(figures):.1f}" if figures else ""


def _figure(value: float | None, scale: float, form: str) -> str:
    return "" if value is None else format(scale * value, form)


if __name__ == "__main__":
    sys.exit(main())
