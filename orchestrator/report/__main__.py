"""`python -m orchestrator.report STUDY.yaml`: writes the report of a study, read from MLflow only.

Needs neither Ray nor the data sets nor the checkpoints.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from orchestrator.console import examples, run_command
from orchestrator.tracking.options import add_report_options
from pipelines.imports import importing_libraries


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.report"
) -> int:
    """Run the command. Return 0 if every trial has a score, 1 if some have none, 2 for bad input,
    130 if interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _report(options, console))


def _report(options: argparse.Namespace, console: Console) -> int:
    with importing_libraries():
        from orchestrator.report.command import write_report

    return write_report(options, console)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write the report of a study (tables, statistics, charts), read from MLflow.",
        **examples(
            prog,
            "study.yaml",
            "study.yaml --only 'strong*' --out paper/tables",
            "study.yaml --tracking http://mlflow.lab:5000",
        ),
    )
    parser.add_argument("study", metavar="STUDY.yaml", help="the study file")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="directory for table.md, table.csv, table.tex, report.html and figures/ "
        "(default: reports/STUDY in the storage)",
    )
    add_report_options(parser)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only trials whose name matches, e.g. 'strong*'; repeatable",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
