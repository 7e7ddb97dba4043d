"""How a study stands when a command of it ends: its state, and the best of its models.

A command may be about some of the study's trials; the study's own run speaks of them all.
"""

from collections.abc import Iterable

from rich.console import Console

from orchestrator.ledger import Ledger, RunStatus
from orchestrator.ledger.models import register_best
from orchestrator.report.results import Result
from orchestrator.report.study_report import Report


def study_status(done: bool, held: bool, others: Iterable[Result]) -> RunStatus:
    """The status of the study's run. done: all trials of the command are finished and scored; held:
    the command was stopped, by a person or a limit; others: the trials it was not about."""
    left = [result for result in others if not _is_done(result)]
    if done and not left:
        return "FINISHED"
    if held:
        return "KILLED"
    return "KILLED" if done and all(result.state != "failed" for result in left) else "FAILED"


def register_best_trial(report: Report, ledger: Ledger, console: Console) -> None:
    """Register the model of the trial with the table's highest figure, and say under which name.

    A study that is not trained to the end has the best of what is finished. Where the store keeps
    no registry, that costs a line of warning.
    """
    best, run_id, highest = "", "", float("-inf")
    for result in (result for row in report.rows for result in row.results):
        if result.miou is not None and result.run is not None and result.miou > highest:
            best, run_id, highest = result.trial.name, result.run.run_id, result.miou
    if not best:
        return
    try:
        registered = register_best(ledger, report.plan.study.study, run_id)
    except Exception as error:  # the study's results stand without it
        say = f"[yellow]warning[/]  the best model could not be registered: {error}"
    else:
        if registered is None:
            return
        say = f"best model: {registered} ({best}, mIoU {highest:.2f} %)"
    console.print(say, highlight=False, soft_wrap=True)


def _is_done(result: Result) -> bool:
    """Whether nothing is left to do about a trial; one that validates on nothing is not scored."""
    validated = result.trial.experiment.data.validation_split is not None
    done = ("finished", "stopped early") if validated else ("finished", "not scored")
    return result.state in done
