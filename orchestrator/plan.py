"""What a study would do, before it does it: `--plan`."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.cells import Cell
from orchestrator.fleet import Gang
from orchestrator.reconciliation import Standing
from orchestrator.study import Plan


def show_plan(
    plan: Plan,
    cells: Sequence[Cell],
    standings: Mapping[str, Standing],
    gang: Gang,
    console: Console,
) -> None:
    """Print the trials with their standing and cost. standings: by the trial's name."""
    rows = Table(title=f"{plan.study.study}: {len(cells)} trials", title_justify="left")
    for name in ("trial", "standing", "identity", "params M", "GFLOPs", "epochs", "steps"):
        rows.add_column(name, justify="left" if name in ("trial", "standing") else "right")
    for cell in cells:
        rows.add_row(
            cell.trial.name,
            standings[cell.trial.name],
            cell.identity[:12],
            f"{cell.cost.parameters_m:.2f}",
            f"{cell.cost.gflops:.2f}",
            str(cell.trial.experiment.training.epochs),
            str(cell.steps),
        )
    console.print(rows)
    console.print(placement(plan, gang), highlight=False)


def placement(plan: Plan, gang: Gang) -> str:
    """How many trials run at a time, and on what."""
    workers = plan.study.resources.workers
    return (
        f"{gang.concurrent} trial{'' if gang.concurrent == 1 else 's'} at a time, "
        f"{workers} worker{'' if workers == 1 else 's'} each, on {gang.device}"
    )
