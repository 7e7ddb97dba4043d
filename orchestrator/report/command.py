"""The work of `orchestrator.report`: read a study's records, print and write its report."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.console import InputError, check_directory, say
from orchestrator.storage import Storage
from orchestrator.study.load import load_study, override_of
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.study import Study
from pipelines.data.storage import check_no_secret
from pipelines.imports import importing_libraries

if TYPE_CHECKING:
    from orchestrator.report.study_report import StudyReport

EXIT_INCOMPLETE = 1


def write_report(options: argparse.Namespace, console: Console) -> int:
    """Write and print the report of a study; return the command's exit status."""
    if options.out:
        check_directory(Path(options.out), "--out")
    overrides = [override_of(text) for text in options.set]
    study = load_study(Path(options.study), overrides, options.only)
    check_no_secret(options.storage)
    storage = Storage.parse(options.storage).local
    study_report = open_report(study, storage, options.tracking)
    directory = _output_directory(options.out, storage, study.config.study)
    with importing_libraries():
        from orchestrator.report.study_report import write_documents
    report = study_report.read()
    report.print(console)
    documents = study_report.documents(report)
    write_documents(directory, documents)
    names = dict.fromkeys(re.sub("/.*", "/", name) for name in documents)
    say(console, f"\nwritten: {directory}/ ({', '.join(names)})")
    if not options.only and not study_report.store.replica:
        # The report that was saved before may have them.
        reason = "the per-image pixel counts of some trials are missing"
        if not report.lacks_counts:
            reason = study_report.keep(documents)
        message = f"not saved to MLflow: {reason}"
        if not reason:
            message = "saved to the study's MLflow run, under report/"
        say(console, message)
    return 0 if report.complete else EXIT_INCOMPLETE


def _output_directory(out: str | None, storage: Path, study: str) -> Path:
    """Return the directory of the report's files; create it if it is the default. Raises
    InputError."""
    if out:
        return Path(out)
    directory = storage / "reports" / re.sub(r"[^\w.-]+", "-", study)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        problem = "" if os.access(directory, os.W_OK) else "it may not be written"
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise InputError(f"{directory}: {problem}; choose a directory for the report with --out")
    return directory


def open_report(study: Study, storage: Path, tracking: str | None) -> "StudyReport":
    """Return the report of a study from its tracking store; see `open_existing_store`."""
    with importing_libraries():  # a broken study is reported before
        from orchestrator.report.study_report import StudyReport
        from orchestrator.tracking.open_store import open_existing_store
    costs: Mapping[str, ModelCost] = {}
    if study.config.kind == "profile":
        from orchestrator.study.profile_costs import profile_costs  # builds the networks with torch

        costs = profile_costs(study)
    return StudyReport(study, open_existing_store(storage, tracking), costs=costs)
