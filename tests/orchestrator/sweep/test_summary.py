"""The summary of failed and incomplete trials at the end of a sweep."""

import io
import shlex
from pathlib import Path

from rich.console import Console

from orchestrator.planning.reconcile import Decision
from orchestrator.report.documents.report import Report
from orchestrator.report.rows.row import build_rows
from orchestrator.study.load import load_study
from orchestrator.study.trial_state import TrialState
from orchestrator.sweep.summary import show_outcome
from orchestrator.tracking.runs import TrialRun
from orchestrator.training.worker_logs import logs_command
from tests.support.fabricated_studies import PLAIN, write_study


def test_trained_but_unscored_trial_is_incomplete_not_failed(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, tmp_path, PLAIN))
    record = TrialRun("run", "plain", "identity", "FINISHED", "code", 3, {})
    failed = TrialRun("other", "plain", "identity", "FAILED", "code", 1, {})
    failures = {"a": "not scored under flipped: stopped", "b": "out of memory"}
    decisions = {
        "a": Decision(TrialState.FINISHED, "leave", record),
        "b": Decision(TrialState.FAILED, "leave", failed),
        "c; d, seed 0": Decision(TrialState.INTERRUPTED, "resume", None),
        "e, seed 0": Decision(TrialState.INTERRUPTED, "resume", None),
    }
    text = io.StringIO()
    console = Console(file=text, width=200)
    report = Report(study, build_rows(study, []))
    show_outcome(report, {"a": record}, failures, decisions, console)
    lines = text.getvalue().splitlines()
    assert "incomplete  a: not scored under flipped: stopped" in lines
    assert "failed  b: out of memory" in lines
    assert lines[lines.index("failed  b: out of memory") + 1] == (
        "  output: orchestrator studies logs b --study plain"
    )
    assert "failed  a" not in text.getvalue()
    assert "not finished  'c; d, seed 0'; e, seed 0 (run the same command to resume)" in lines


def test_command_for_the_output_of_a_trial_can_be_copied() -> None:
    command = logs_command("it's, 8, seed 0", "my study", "/disk 2/storage")
    options = ["--study", "my study", "--storage", "/disk 2/storage"]
    assert shlex.split(command) == ["orchestrator", "studies", "logs", "it's, 8, seed 0", *options]
