"""The work of `orchestrator.bundle`: write a bundle, check it, or train one of its trials again."""

import argparse
import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from orchestrator.bundle.check import check_bundle
from orchestrator.bundle.content import opened, pack_directory
from orchestrator.bundle.replay import replay
from orchestrator.bundle.write import write_bundle
from orchestrator.console import InputError, say, say_labeled, warn
from orchestrator.report.command import open_report
from orchestrator.storage import Storage
from orchestrator.study.load import load_study, override_of
from orchestrator.study.study import Study
from orchestrator.sweep.command import (
    open_log,
    readable_disk_errors,
    run_context,
    run_here,
    stop_on_signals,
)
from orchestrator.sweep.options import SweepOptions, default_address
from pipelines.command import EXIT_FAILED
from pipelines.data.storage import check_no_secret
from pipelines.wording import counted

_LISTED = 20  # problems that are printed


def bundle(options: argparse.Namespace, console: Console) -> int:
    """Do what the options request; return the command's exit status."""
    check_no_secret(options.storage)
    if options.check:
        return _check(options, console)
    if options.replay is not None:
        return _replay(options, console)
    return _write(options, console)


def _write(options: argparse.Namespace, console: Console) -> int:
    if options.out is None:
        raise InputError("--out is missing; name a new directory or zip file for the bundle")
    out = Path(options.out).expanduser().resolve()
    if out.exists():
        raise InputError(f"--out {out} exists; choose a new name")
    overrides = [override_of(text) for text in options.set]
    study = load_study(Path(options.source), overrides)
    if "$" not in (study.config.notify.url or "$"):
        warn(
            console,
            "the bundled study file contains the webhook address of notify.url; if that is secret, "
            "use an environment variable such as $WEBHOOK instead",
        )
    storage = Storage.parse(options.storage).local
    study_report = open_report(study, storage, options.tracking)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        directory = partial / "bundle"
        report = write_bundle(study, overrides, study_report, storage, directory, options.weights)
        if out.suffix.lower() == ".zip":
            directory = pack_directory(directory, partial / "bundle.zip")
        directory.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for line in report.notes.unfinished:
        say(console, line, "yellow")
    count = sum(result.miou is not None for row in report.rows for result in row.results)
    say(console, f"written: {out}, with the counts of {counted(count, 'trial')}")
    return 0 if report.complete else EXIT_FAILED


def _check(options: argparse.Namespace, console: Console) -> int:
    with opened(Path(options.source).expanduser()) as directory:
        result = check_bundle(directory)
    for problem in result.problems[:_LISTED]:
        say_labeled(console, "wrong", "bold red", problem)
    if len(result.problems) > _LISTED:
        say(console, f"and {len(result.problems) - _LISTED} more")
    for note in result.notes:
        say_labeled(console, "note", "yellow", note)
    problems = counted(len(result.problems), "problem") if result.problems else "no problems"
    say(
        console,
        f"{counted(result.scores, 'score')} and {counted(result.cells, 'value')} of the table "
        f"recomputed from the counts; {problems}",
    )
    return EXIT_FAILED if result.problems else 0


def _replay(options: argparse.Namespace, console: Console) -> int:
    if Storage.parse(options.storage).is_remote:
        raise InputError(
            f"--storage {options.storage} cannot hold the replay's own tracking store; choose a "
            "directory"
        )
    storage = Storage.parse(options.storage).local

    def train(study: Study, directory: Path) -> bool:
        sweep_options = SweepOptions(
            storage=str(directory),
            address=options.address or default_address(),
            preflight=False,
        )
        with (
            open_log(sweep_options) as (run_storage, terminal, log),
            stop_on_signals(terminal) as stop,
            readable_disk_errors(run_storage),
        ):
            context = run_context(sweep_options, run_storage, log, terminal, stop)
            finished = run_here(study, context, sweep_options)
        if stop.requested:
            raise KeyboardInterrupt
        return finished

    with opened(Path(options.source).expanduser()) as directory:
        result = replay(directory, options.replay, storage, options.dataset, train)
    for text in result.same:
        say_labeled(console, "same", "green", text)
    for text in result.problems:
        say_labeled(console, "different", "bold red", text)
    for note in result.notes:
        say_labeled(console, "note", "yellow", note)
    return EXIT_FAILED if result.problems else 0
