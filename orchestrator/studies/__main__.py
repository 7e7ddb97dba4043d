"""`python -m orchestrator.studies`: list, inspect, compare, stop, and resume studies.

`list` shows all studies in the storage, `status STUDY` its trials, `logs TRIAL` the output of a
trial's workers, and `compare A B` how two studies and their tables differ. `stop STUDY` gracefully
stops the command that runs the study, on whatever host, and `resume STUDY` continues it with the
options of its last run. `relocate` records where a moved storage is.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import examples, run_command
from orchestrator.tracking.options import add_tracking_option
from pipelines.imports import importing_libraries
from pipelines.wording import suggestion

_STUDY = "its name, which is that of the key `study` of its file; `list` shows all names"


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.studies"
) -> int:
    """Run the command; return its exit status: 0 done, 2 bad input, 130 interrupted; `resume`
    returns the exit status of `orchestrator.sweep`."""
    parser, commands = _parser(prog)
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and not given[0].startswith("-") and given[0] not in commands:
        parser.error(f"unknown command {given[0]!r}; {suggestion(given[0], commands)}")
    options = parser.parse_args(given)
    return run_command(lambda console: _run(options, console))


def _run(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.studies.commands import COMMANDS

    return COMMANDS[options.command](options, console)


def _parser(prog: str) -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser, and the names of its commands."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="List, inspect, compare, stop, and resume studies from any terminal.",
        **examples(prog, "list", "status streets-flows", "logs 'strong, seed 0' --follow"),
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

    def add(name: str, text: str, *arguments: str) -> argparse.ArgumentParser:
        parents = [common] if name in ("stop", "resume", "relocate") else [common, reading]
        shown = examples(f"{prog} {name}", *arguments)
        return commands.add_parser(name, help=text, description=text, parents=parents, **shown)

    add("list", "List all studies: state, trials, best mIoU.", "", "--storage s3://BUCKET/storage")
    compare = add(
        "compare",
        "Show how two studies differ: settings, trials, and scores.",
        "cityscapes-table-1a cityscapes-table-1b",
        "streets-flows ablations.yaml",
    )
    compare.add_argument(
        "first", metavar="STUDY", help="the name of a study in the storage, or a study file (.yaml)"
    )
    compare.add_argument(
        "second", metavar="OTHER", help="another one; differences are OTHER minus STUDY"
    )
    status = add("status", "Show all trials of a study.", "streets-flows")
    logs = add(
        "logs",
        "Print the output of a trial's workers: of its latest run, if it has several.",
        "'strong, seed 0' --follow",
        "'strong, seed 0' --study streets-flows --worker 1",
    )
    logs.add_argument(
        "trial",
        metavar="TRIAL",
        help="its name, with the key or label of its variant, or its run id",
    )
    logs.add_argument("--study", help="required if several studies have a trial of that name")
    logs.add_argument(
        "--worker", type=int, default=0, metavar="RANK", help="rank of the worker (default: 0)"
    )
    logs.add_argument("--follow", action="store_true", help="keep printing until the trial ends")
    stop = add("stop", "Gracefully stop a running study, on whatever host.", "streets-flows")
    add(
        "relocate",
        "Record the paths of a storage that was moved, for MLflow's own pages and programs; all "
        "other commands find its artifacts anyway.",
        "--storage /mnt/storage",
    )
    resume = add(
        "resume",
        "Continue a study with the options of its last run, from any directory.",
        "streets-flows",
        "streets-flows --retry-failed --address auto",
    )
    for command in (status, stop, resume):
        command.add_argument("study", metavar="STUDY", help=_STUDY)
    for option in ("--retry-failed", "--retrain-stale"):
        resume.add_argument(option, action="store_true", help="as for orchestrator.sweep")
    resume.add_argument(
        "--address",
        help="a running Ray cluster, as for orchestrator.sweep, or local "
        "(default: that of the last run)",
    )
    return parser, list(commands.choices)


if __name__ == "__main__":
    sys.exit(main())
