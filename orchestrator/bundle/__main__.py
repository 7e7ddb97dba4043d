"""`python -m orchestrator.bundle STUDY.yaml --out BUNDLE`: the supplementary material of a study.

`--check BUNDLE` recomputes its scores without the data, and `--replay TRIAL` trains a trial again.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import run_command
from orchestrator.tracking.options import add_report_options
from pipelines.imports import importing_libraries

# Options by the action that uses them: "" for writing a bundle.
_USED = {
    "": ("out", "weights", "storage", "tracking", "set"),
    "check": (),
    "replay": ("dataset", "address", "storage"),
}


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.bundle"
) -> int:
    """Run the command. Return 0 if the bundle is complete or correct, 1 if trials are missing or
    something differs, 2 for bad input, 130 if interrupted."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    _reject_unused(parser, options)
    return run_command(lambda console: _bundle(options, console))


def _bundle(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.bundle.command import bundle

    return bundle(options, console)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write the supplementary material of a study, check it, or train one of its "
        "trials again.",
    )
    parser.add_argument(
        "source",
        metavar="STUDY.yaml|BUNDLE",
        help="the study file; with --check or --replay, the directory or zip file of a bundle",
    )
    action = parser.add_mutually_exclusive_group()
    check = "recompute every score and value of the table from the sums by image, without data"
    action.add_argument("--check", action="store_true", help=check)
    replay = "train this trial again and compare weights, counts and epochs bit for bit"
    action.add_argument("--replay", metavar="TRIAL", help=replay)
    weights = "include the weights of all last checkpoints, not only their SHA-256"
    parser.add_argument("--weights", action="store_true", help=weights)
    for name, metavar, text in (
        ("--out", "DIR|FILE.zip", "new directory or zip file of the bundle"),
        ("--dataset", "URI", "the data set's location here, for --replay"),
        ("--address", None, "a running Ray cluster for --replay, as for orchestrator.sweep"),
    ):
        parser.add_argument(name, metavar=metavar, help=text)
    add_report_options(parser, "; for --replay, a storage of its own, without the study")
    return parser


def _reject_unused(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with status 2 if an option is given that the action does not use."""
    action = "check" if options.check else "replay" if options.replay is not None else ""
    for names in _USED.values():
        for name in names:
            given = getattr(options, name) != parser.get_default(name)
            if given and name not in _USED[action]:
                user = next(each for each, used in _USED.items() if name in used)
                reason = f"with --{action}" if action else f"without --{user}"
                parser.error(f"--{name} has no effect {reason}; remove it")


if __name__ == "__main__":
    sys.exit(main())
