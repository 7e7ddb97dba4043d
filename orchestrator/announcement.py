"""What a study's command says before it trains, and what it says in the end."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from orchestrator.cells import Cell
from orchestrator.ledger import Record
from orchestrator.reconciliation import Decision
from orchestrator.report.study_report import Report
from orchestrator.study import Plan


def announce(
    plan: Plan, cells: Sequence[Cell], decisions: Mapping[str, Decision], console: Console
) -> None:
    """Say how many trials are in which state, and what of published weights could be loaded."""
    counts = Counter(decision.standing for decision in decisions.values())
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    console.print(f"[bold]{plan.study.study}[/]: {len(cells)} trials: {told}", highlight=False)
    loaded = {
        f"{cell.trial.experiment.training.backbone_weights}: {cell.pretrained.layout}, "
        f"{len(cell.pretrained.loaded)} tensors loaded, {len(cell.pretrained.missing)} of the "
        "backbone not in it (each trial's pretrained.txt lists them)"
        for cell in cells
        if cell.pretrained is not None
    }
    for line in sorted(loaded):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_outcome(
    report: Report,
    finished: Mapping[str, Record],
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
        f"{name} (study {decision.record.study})"
        for name, decision in decisions.items()
        if decision.action == "link" and decision.record is not None
    )
    if linked:
        console.print(
            f"trained by other studies: {', '.join(linked)}", highlight=False, soft_wrap=True
        )
    if any(decision.standing == "stale" for decision in decisions.values()):
        console.print(
            "stale trials were trained by another version of the code; --retrain-stale trains "
            "them anew",
            highlight=False,
        )
    report.print_table(console)
