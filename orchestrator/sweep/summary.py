"""The summaries that a sweep prints before it trains and at its end."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console

from orchestrator.console import say, say_labeled, warn
from orchestrator.planning.reconcile import Decision
from orchestrator.report.documents.report import Report
from orchestrator.report.rows.results import Result
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.models import register_best
from orchestrator.tracking.runs import RunStatus, TrialRun
from orchestrator.tracking.store import TrackingStore
from orchestrator.training.worker_logs import DEFAULT_STORAGE, logs_command
from pipelines.data.split_names import general_name
from pipelines.wording import counted


def announce(
    study: Study,
    trials: Sequence[ResolvedTrial],
    decisions: Mapping[str, Decision],
    console: Console,
) -> None:
    """Print the number of trials by state, and how much of the published weights was loaded."""
    counts = Counter(decision.state for decision in decisions.values())
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    console.print(f"[bold]{study.config.study}[/]: {counted(len(trials), 'trial')}: {states}")
    loaded = {
        f"{trial.experiment.training.backbone_weights}: {trial.pretrained.layout}, "
        f"{len(trial.pretrained.loaded)} tensors loaded, {len(trial.pretrained.missing)} backbone "
        "tensors missing (each trial's pretrained.txt lists them)"
        for trial in trials
        if trial.pretrained is not None
    }
    for line in sorted(loaded):
        say(console, line)


def show_outcome(
    report: Report,
    finished: Mapping[str, TrialRun],
    failures: Mapping[str, str],
    decisions: Mapping[str, Decision],
    console: Console,
    storage: str = DEFAULT_STORAGE,
    limited: bool = False,
) -> None:
    """Print failed and unfinished trials, then the table.

    All by trial name: finished: the runs shown in the table; failures: why a training failed, or
    which evaluation of a finished trial is missing and why; decisions: the current ones. storage:
    path or URI, for the commands to copy. limited: whether a limit, which is printed below the
    table with what to do, is why trials are unfinished.
    """
    console.print()
    for name, cause in failures.items():
        label, style = ("incomplete", "yellow") if name in finished else ("failed", "bold red")
        say_labeled(console, label, style, f"{name}: {cause}")
        if name not in finished:
            say(
                console,
                f"  output: {logs_command(name, report.study.config.study, storage)}",
                style="dim",
            )
    if failures.keys() - finished.keys():
        say(
            console,
            "  (not retried; --retry-failed resumes them; orchestrator studies logs TRIAL prints "
            "the output with the traceback)",
            style="dim",
        )
    unfinished = [name for name in decisions if name not in finished and name not in failures]
    if unfinished:
        advice = "" if limited else " (run the same command to resume)"
        say_labeled(console, "not finished", "yellow", join_names(unfinished) + advice)
    linked = sorted(
        f"{join_names([name])} (study {decision.run.study})"
        for name, decision in decisions.items()
        if decision.action == "link" and decision.run is not None
    )
    if linked:
        say(console, f"trained by other studies: {'; '.join(linked)}")
    if any(decision.state is TrialState.STALE for decision in decisions.values()):
        say(
            console,
            "stale trials were trained by another version of the code; --retrain-stale retrains "
            "them",
        )
    report.print_table(console)


def join_names(names: Iterable[str]) -> str:
    """Join names of trials with semicolons; a name that has one is quoted."""
    return "; ".join(repr(name) if ";" in name else name for name in names)


def study_status(done: bool, interrupted: bool, others: Iterable[Result]) -> RunStatus:
    """Return the status of the study's run. done: all trials of this command are finished and
    scored; interrupted: the user or a limit stopped it; others: results of the study's other
    trials."""
    unfinished = [result for result in others if not _is_done(result)]
    if done and not unfinished:
        return "FINISHED"
    if interrupted:
        return "KILLED"
    return (
        "KILLED"
        if done and all(result.state is not TrialState.FAILED for result in unfinished)
        else "FAILED"
    )


def register_best_trial(report: Report, store: TrackingStore, console: Console) -> None:
    """Register the model of the trial with the highest score in the table, and print its name.

    In an unfinished study, that is the best finished trial. If the store has no model registry,
    prints a warning.
    """
    scored = [
        (result.miou, result.trial, result.run.run_id)
        for row in report.rows
        for result in row.results
        if result.miou is not None and result.run is not None
    ]
    if not scored:
        return
    highest, best, run_id = max(scored, key=lambda each: each[0])
    try:
        registered = register_best(store, report.study.config.study, run_id)
    except Exception as error:  # the study's results do not depend on it
        warn(console, f"the best model could not be registered: {error}")
    else:
        if registered is not None:
            caveat = ""
            if len(scored) > 1:
                config = report.study.config
                own = best.experiment.data.validation_split
                split = general_name(config.scored_split(config.report.protocol, own) or "")
                caveat = f", the highest of {len(scored)} trials on {split}, so it is optimistic"
            say(console, f"best model: {registered} ({best.name}, mIoU {highest:.2f} %{caveat})")


def _is_done(result: Result) -> bool:
    """Whether a trial is finished and scored; a trial without validation is not scored."""
    validated = result.trial.experiment.data.validation_split is not None
    other = TrialState.STOPPED_EARLY if validated else TrialState.NOT_SCORED
    return result.state in (TrialState.FINISHED, other)
