"""Studies and their trials as tables for a terminal."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from orchestrator.ledger import Record, StudyView

_STYLES = {"running": "cyan", "finished": "green", "failed": "bold red", "stopped": "yellow"}
_NAMES = {
    "SCHEDULED": ("waiting", "dim"),
    "RUNNING": ("training", "cyan"),
    "FINISHED": ("finished", "green"),
    "FAILED": ("failed", "bold red"),
    "KILLED": ("stopped", "yellow"),
}


def studies_table(views: Sequence[StudyView]) -> Table:
    """A row for each study: state, trials by state, best mIoU, who runs it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("study", "state", "trials", "best mIoU %", "begun", "run by"):
        table.add_column(name, justify="right" if name == "best mIoU %" else "left")
    for view in views:
        state = "stopping" if view.owner and view.asked_to_stop else view.state
        table.add_row(
            view.name,
            Text(state, style=_STYLES[view.state]),
            _counted(view),
            _best(view.trials),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(view.started)),
            f"{view.owner[0].described}, {view.owner[1]:.0f} s ago" if view.owner else "",
        )
    return table


def trials_table(view: StudyView) -> Table:
    """A row for each trial: state, epoch, mIoU, loss, speed, hours."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    columns = ("trial", "state", "epoch", "mIoU %", "best %", "loss", "images/s", "hours", "run")
    for name in columns:
        table.add_column(name, justify="left" if name in ("trial", "state", "run") else "right")
    for record in view.trials:
        name, style = _NAMES[record.status]
        figures = record.metrics
        table.add_row(
            record.name,
            Text(name, style=style),
            str(record.epoch),
            _figure(figures.get("val/miou"), 100, ".1f"),
            _figure(figures.get("val/best_miou"), 100, ".1f"),
            _figure(figures.get("train/loss"), 1, ".3f"),
            _figure(figures.get("images_per_second"), 1, ".0f"),
            _figure(figures.get("trial/seconds"), 1 / 3600, ".2f"),
            record.run_id[:8],
        )
    return table


def _counted(view: StudyView) -> str:
    counts = Counter(_NAMES[record.status][0] for record in view.trials)
    if view.links:
        counts["linked"] = view.links
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _best(trials: Sequence[Record]) -> str:
    figures = [r.metrics["val/miou"] for r in trials if "val/miou" in r.metrics]
    return f"{100 * max(figures):.1f}" if figures else ""


def _figure(value: float | None, scale: float, form: str) -> str:
    return "" if value is None else format(scale * value, form)
