"""`python -m orchestrator.evaluate MODEL --dataset URI`: score a trained model.

Prints a table, or all digits with `--json` or `--csv`. If MODEL belongs to a run, the scores are
also logged to that run.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import run_command
from orchestrator.evaluation.options import add_options
from pipelines.evaluation.config import METRICS
from pipelines.imports import importing_libraries


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.evaluate"
) -> int:
    """Run the command; return its exit status: 0 scored, 1 failed, 2 bad input, 130
    interrupted."""
    options = _parser(prog).parse_args(arguments)
    # With --json or --csv, standard output holds nothing else.
    return run_command(
        lambda console: _evaluate(options, console), on_stderr=options.json or options.csv
    )


def _evaluate(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.evaluation.evaluate_model import evaluate_model

    return evaluate_model(options, console)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Score a trained model on a data set.")
    add_options(parser)
    parser.add_argument(
        "--dataset", required=True, metavar="URI", help="a prepared data set, or `streets`"
    )
    parser.add_argument(
        "--split",
        help="split of the data set (default: val; the held-out fold for a model of a fold)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=4,
        help="images read together (default: 4); does not change the scores",
    )
    parser.add_argument(
        "--metric",
        dest="metrics",
        action="append",
        default=[],
        metavar="METRIC",
        help=f"another metric: {', '.join(METRICS.built_in)}, `package.module:Class`, or a mapping "
        "such as '{name: boundary_iou, arguments: {distance: 0.005}}'; repeatable",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--json",
        action="store_true",
        help="print the scores as JSON, from 0 to 1 with all digits, instead of the table",
    )
    output.add_argument(
        "--csv", action="store_true", help="print the same values as CSV, one per line"
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS"),
        help="a running Ray cluster (host:port or auto) to score on (default: this process)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
