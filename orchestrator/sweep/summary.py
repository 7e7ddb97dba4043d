"""What a study's command says before it trains, and what it says in the end."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from orchestrator.planning.reconcile import Decision
from orchestrator.report.results import Result
from orchestrator.report.study_report import Report
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.models import register_best
from orchestrator.tracking.runs import RunStatus, TrialRun
from orchestrator.tracking.store import TrackingStore


def announce(
    study: Study,
    trials: Sequence[ResolvedTrial],
    decisions: Mapping[str, Decision],
    console: Console,
) -> None:
    """Say how many trials are in which state, and what of published weights could be loaded."""
    counts = Counter(decision.state for decision in decisions.values())
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    console.print(f"[bold]{study.config.study}[/]: {len(trials)} trials: {told}", highlight=False)
    loaded = {
        f"{trial.experiment.training.backbone_weights}: {trial.pretrained.layout}, "
        f"{len(trial.pretrained.loaded)} tensors loaded, {len(trial.pretrained.missing)} of the "
        "backbone not in it (each trial's pretrained.txt lists them)"
        for trial in trials
        if trial.pretrained is not None
    }
    for line in sorted(loaded):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_outcome(
    report: Report,
    finished: Mapping[str, TrialRun],
    failures: Mapping[str, str],
    decisions: Mapping[str, Decision],
    console: Console,
) -> None:
    """Print what failed and what is not finished, then the table. By the trial's name, finished:
    the runs that stand in the table; failures: why a training failed or, of a finished one, what
    was left undone and why; decisions: as things stand now."""
    console.print()
    for name, cause in failures.items():
        said = "[yellow]left undone[/]" if name in finished else "[bold red]failed[/]"
        console.print(f"{said}  {escape(name)}: ", end="", highlight=False)
        console.print(cause, markup=False, highlight=False, soft_wrap=True)
    if failures.keys() - finished.keys():
        console.print("  (left as they are; --retry-failed tries them again)", style="dim")
    left = [name for name in decisions if name not in finished and name not in failures]
    if left:
        console.print(
            f"[yellow]not finished[/]  {'; '.join(left)} (run the same command to go on)",
            highlight=False,
            soft_wrap=True,
        )
    linked = sorted(
        f"{name} (study {decision.run.study})"
        for name, decision in decisions.items()
        if decision.action == "link" and decision.run is not None
    )
    if linked:
        console.print(
            f"trained by other studies: {', '.join(linked)}", highlight=False, soft_wrap=True
        )
    if any(decision.state is TrialState.STALE for decision in decisions.values()):
        console.print(
            "stale trials were trained by another version of the code; --retrain-stale trains "
            "them anew",
            highlight=False,
        )
    report.print_table(console)


def study_status(done: bool, held: bool, others: Iterable[Result]) -> RunStatus:
    """The status of the study's run. done: all trials of the command are finished and scored; held:
    the command was stopped, by a person or a limit; others: the trials it was not about."""
    left = [result for result in others if not _is_done(result)]
    if done and not left:
        return "FINISHED"
    if held:
        return "KILLED"
    return (
        "KILLED"
        if done and all(result.state is not TrialState.FAILED for result in left)
        else "FAILED"
    )


def register_best_trial(report: Report, store: TrackingStore, console: Console) -> None:
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
        registered = register_best(store, report.study.config.study, run_id)
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
    other = TrialState.STOPPED_EARLY if validated else TrialState.NOT_SCORED
    return result.state in (TrialState.FINISHED, other)
