"""The work of `orchestrator.report`: read a study's records, print and write its report."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from orchestrator.console import InputError, say
from orchestrator.study.load import load_study, override_of
from orchestrator.study.model_cost import ModelCost
from pipelines.imports import importing_libraries

EXIT_INCOMPLETE = 1


def write_report(options: argparse.Namespace, console: Console) -> int:
    """Write and print the report of a study; return the command's exit status."""
    if options.out and Path(options.out).exists() and not Path(options.out).is_dir():
        raise InputError(f"--out {options.out} is a file; choose a directory")
    overrides = [override_of(text) for text in options.set]
    study = load_study(Path(options.study), overrides, options.only)
    with importing_libraries():  # a broken study is reported before
        from orchestrator.report.study_report import StudyReport, write_documents
        from orchestrator.tracking.store import open_existing_store
    costs: Mapping[str, ModelCost] = {}
    if study.config.kind == "profile":
        from orchestrator.study.profile_costs import profile_costs  # builds the networks with torch

        costs = profile_costs(study)
    storage = Path(options.storage).expanduser().resolve()
    store = open_existing_store(storage, options.tracking)
    study_report = StudyReport(study, store, costs=costs)
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
