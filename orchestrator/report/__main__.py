"""`python -m orchestrator.report STUDY.yaml`: the tables and figures of a study, from MLflow alone.

Needs neither Ray nor the data sets nor the checkpoints.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.console import InputError, run_command
from orchestrator.report.study_report import StudyReport, write_documents
from orchestrator.study.load import load_study, override_of
from orchestrator.study.model_cost import profile_costs
from orchestrator.tracking.store import TrackingStore, tracking_uri

EXIT_INCOMPLETE = 1


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.report"
) -> int:
    """Run the command; its exit status: 0 every trial has a figure, 1 some have none, 2 bad input,
    130 interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _report(options, console))


def _report(options: argparse.Namespace, console: Console) -> int:
    overrides = [override_of(text) for text in options.set]
    study = load_study(Path(options.study), overrides, options.only)
    storage = Path(options.storage).expanduser().resolve()
    uri = tracking_uri(storage)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        raise InputError(
            f"there is no ledger at {file}; name the storage of the study with --storage, or the "
            "tracking server with MLFLOW_TRACKING_URI"
        )
    study_report = StudyReport(study, TrackingStore(uri, None), costs=profile_costs(study))
    report = study_report.read()
    report.print(console)
    documents = study_report.documents(report)
    name = re.sub(r"[^\w.-]+", "-", study.config.study)
    directory = Path(options.out) if options.out else storage / "reports" / name
    write_documents(directory, documents)
    console.print(f"\nwritten: {directory}/ ({', '.join(documents)})", soft_wrap=True)
    if not options.only:
        why_not = study_report.keep(documents)
        told = f"not kept in MLflow: {why_not}"
        if not why_not:
            told = "kept with the study's run in MLflow, under report/"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    return 0 if report.complete else EXIT_INCOMPLETE


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="The tables and figures of a study, from what MLflow holds.",
    )
    parser.add_argument("study", metavar="STUDY.yaml", help="the study file")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where table.md, table.csv, table.tex and report.html go "
        "(default: reports/STUDY in the storage)",
    )
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR",
        help="where the study's ledger lies, unless MLFLOW_TRACKING_URI says (default: ./storage)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as given to orchestrator.sweep when the study was run; repeatable",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="trials whose name matches, e.g. 'strong*'; repeatable",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
