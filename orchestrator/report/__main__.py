"""`python -m orchestrator.report STUDY.yaml`: writes the report of a study, read from MLflow only.

Needs neither Ray nor the data sets nor the checkpoints.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.console import InputError, run_command, say
from orchestrator.report.study_report import StudyReport, write_documents
from orchestrator.study.load import load_study, override_of
from orchestrator.study.model_cost import profile_costs
from orchestrator.tracking.replica import add_tracking_option
from orchestrator.tracking.store import open_existing_store

EXIT_INCOMPLETE = 1


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.report"
) -> int:
    """Run the command. Return 0 if every trial has a score, 1 if some have none, 2 for bad input,
    130 if interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _report(options, console))


def _report(options: argparse.Namespace, console: Console) -> int:
    if options.out and Path(options.out).exists() and not Path(options.out).is_dir():
        raise InputError(f"--out {options.out} is a file; choose a directory")
    overrides = [override_of(text) for text in options.set]
    study = load_study(Path(options.study), overrides, options.only)
    storage = Path(options.storage).expanduser().resolve()
    store = open_existing_store(storage, options.tracking)
    study_report = StudyReport(study, store, costs=profile_costs(study))
    report = study_report.read()
    report.print(console)
    documents = study_report.documents(report)
    name = re.sub(r"[^\w.-]+", "-", study.config.study)
    directory = Path(options.out) if options.out else storage / "reports" / name
    write_documents(directory, documents)
    names = dict.fromkeys(re.sub("/.*", "/", name) for name in documents)
    say(console, f"\nwritten: {directory}/ ({', '.join(names)})")
    if not options.only and not store.replica:
        reason = study_report.keep(documents)
        message = f"not saved to MLflow: {reason}"
        if not reason:
            message = "saved to the study's MLflow run, under report/"
        say(console, message)
    return 0 if report.complete else EXIT_INCOMPLETE


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write the report of a study (tables, statistics, charts), read from MLflow.",
    )
    parser.add_argument("study", metavar="STUDY.yaml", help="the study file")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="directory for table.md, table.csv, table.tex, report.html and figures/ "
        "(default: reports/STUDY in the storage)",
    )
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR",
        help="the study's storage, with the tracking store unless MLFLOW_TRACKING_URI is set "
        "(default: ./storage)",
    )
    add_tracking_option(parser)
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
