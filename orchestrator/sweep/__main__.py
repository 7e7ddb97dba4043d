"""`python -m orchestrator.sweep STUDY.yaml`: train whatever is missing from the study's table.

Trains missing trials, resumes interrupted ones, keeps finished ones, and prints the table.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator.console import run_command
from orchestrator.sweep.options import SweepOptions, default_address
from pipelines.imports import importing_libraries

_PROG = "python -m orchestrator.sweep"


def main(arguments: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Run the command; return its exit status: 0 all trials finished, 1 some failed, 2 bad input,
    130 interrupted."""
    options = parser(prog).parse_args(arguments)
    return run_command(partial(_sweep, options))


def _sweep(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.study.load import override_of
        from orchestrator.sweep.command import sweep

    sweep_options = SweepOptions(
        overrides=[override_of(text) for text in options.set],
        only=options.only,
        storage=options.storage,
        address=options.address,
        plan=options.plan,
        retry_failed=options.retry_failed,
        retrain_stale=options.retrain_stale,
        preflight=not options.no_preflight,
    )
    return sweep(Path(options.study), sweep_options, console)


def parser(prog: str = _PROG) -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train every missing trial of a study and print its table.",
    )
    parser.add_argument("study", metavar="STUDY.yaml", help="the study file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value of the file, e.g. training.epochs=50 or data.dataset=DIR; "
        "repeatable",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="train only trials whose name matches, e.g. 'strong*'; repeatable",
    )
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR|URI",
        help="location of data sets, checkpoints, logs and the tracking store (default: "
        "./storage); a URI, such as s3://BUCKET/storage, needs MLFLOW_TRACKING_URI",
    )
    parser.add_argument(
        "--address",
        default=default_address(),
        help="a running Ray cluster: host:port or auto on one of its nodes, or from anywhere the "
        "URL of its dashboard (http://localhost:8265), which submits the study to it; by default, "
        "a cluster is started on this machine. With --plan also a file of `ray up`, such as "
        "cluster.yaml: its price, and whether the account may start it",
    )
    parser.add_argument(
        "--plan", action="store_true", help="show the trials and their state; train nothing"
    )
    parser.add_argument("--retry-failed", action="store_true", help="also resume failed trials")
    parser.add_argument(
        "--retrain-stale",
        action="store_true",
        help="retrain trials that were finished by another version of the code",
    )
    parser.add_argument(
        "--no-preflight",
        action="store_true",
        help="skip the preflight run of each distinct experiment",
    )
    return parser


if __name__ == "__main__":
    status = main()
    gc.freeze()  # a last collection on exit would scan everything once more
    sys.exit(status)
