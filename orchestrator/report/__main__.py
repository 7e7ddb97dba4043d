"""`python -m orchestrator.report STUDY.yaml`: writes the report of a study, read from MLflow only.

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return 0 if every trial has a score, 1 if some have none, 2 for bad input,
    130 if interrupted."""
    options = _parser().parse_args(arguments)
    return run_command(lambda console: _report(options, console))


def _report(options: argparse.Namespace, console: Console) -> int:
    overrides = [override_of(text) for text in options.set]
    study = load_study(Path(options.study), overrides, options.only)
    storage = Path(options.storage).expanduser().resolve()
    uri = tracking_uri(storage)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        raise InputError(
            f"no tracking store at {file}; pass the study's storage with --storage or set "
            "MLFLOW_TRACKING_URI"
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
        reason = study_report.keep(documents)
        message = f"not saved to MLflow: {reason}"
        if not reason:
            message = "saved to the study's MLflow run, under report/"
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    return 0 if report.complete else EXIT_INCOMPLETE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.report",
        description="Write the report of a study (tables, statistics, charts), read from MLflow.",
    )
    parser.add_argument("study", metavar="STUDY.yaml", help="the study file")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="directory for table.md, table.csv, table.tex and report.html "
        "(default: reports/STUDY in the storage)",
    )
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR",
        help="the study's storage, with the tracking store unless MLFLOW_TRACKING_URI is set "
        "(default: ./storage)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, as in the orchestrator.sweep command that ran the study; repeatable",
    )
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
