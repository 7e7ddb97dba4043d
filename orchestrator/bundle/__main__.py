"""`python -m orchestrator.bundle STUDY.yaml --out BUNDLE`: the supplementary material of a study.

`--check BUNDLE` recomputes its scores without the data, and `--replay TRIAL` trains a trial again.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import run_command
from orchestrator.tracking.options import add_tracking_option
from pipelines.imports import importing_libraries


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.bundle"
) -> int:
    """Run the command. Return 0 if the bundle is complete or correct, 1 if trials are missing or
    something differs, 2 for bad input, 130 if interrupted."""
    options = _parser(prog).parse_args(arguments)
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
    parser.add_argument(
        "--out", metavar="DIR|FILE.zip", help="new directory or zip file of the bundle"
    )
    parser.add_argument(
        "--weights",
        action="store_true",
        help="include the weights of all last checkpoints, not only their SHA-256",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--check",
        action="store_true",
        help="recompute every score and value of the table from the counts by image, without data",
    )
    action.add_argument(
        "--replay",
        metavar="TRIAL",
        help="train this trial again and compare weights, counts and epochs bit for bit",
    )
    parser.add_argument(
        "--dataset", metavar="URI", help="the data set's location here, for --replay"
    )
    parser.add_argument(
        "--address", help="a running Ray cluster for --replay, as for orchestrator.sweep"
    )
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR",
        help="the study's storage, with the tracking store unless MLFLOW_TRACKING_URI is set; for "
        "--replay, a storage of its own, without the study (default: ./storage)",
    )
    add_tracking_option(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, as in the orchestrator.sweep command that ran the study; repeatable",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
