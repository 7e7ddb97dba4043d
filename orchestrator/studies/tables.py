"""Tables of studies and their trials for the terminal."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from rich.table import Table
from rich.text import Text

from orchestrator.sweep.progress import clock
from orchestrator.tracking.queries import StudySummary
from orchestrator.tracking.runs import TrialRun

# A trial that the study had before its file was edited.
_SUPERSEDED = "not in the study any more"

_LINKED = "linked"  # a trial that another study or row trained

_STYLES = {
    "running": "cyan",
    "silent": "yellow",
    "finished": "green",
    "failed": "bold red",
    "interrupted": "yellow",
}


def studies_table(studies: Sequence[StudySummary]) -> Table:
    """Return a table of studies: state, trials by state, best mIoU, and the process running it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("study", "state", "trials", "best mIoU %", "started", "run by"):
        table.add_column(name, justify="right" if name == "best mIoU %" else "left")
    for study in studies:
        stopping = study.state == "running" and study.stop_requested
        state = "stopping" if stopping else study.state
        table.add_row(
            study.name,
            Text(state, style=_STYLES[study.state]),
            _trial_counts(study),
            _best(study.present),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(study.started)),
            _lock_holder(study),
        )
    return table


def trials_table(study: StudySummary) -> Table:
    """Return a table of trials: state, epoch, mIoU, loss, speed, time. They are in the order in
    which they were created; those that the study does not have any more come last."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    columns = ("trial", "state", "epoch", "mIoU %", "best %", "loss", "images/s", "time", "run")
    for name in columns:
        is_text = name in ("trial", "state", "run")
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(name, justify=justify, no_wrap=name == "run")  # to be copied
    superseded = [run for run in study.trials if run.superseded]
    for run in [*study.present, *superseded]:
        metrics = run.metrics
        state = Text(_LINKED if run in study.links else run.state, style=run.state.style)
        if run.superseded:
            state = Text(f"{run.state}, {_SUPERSEDED}", style="dim")
        table.add_row(
            run.name,
            state,
            str(run.epoch),
            _format(metrics.get("val/miou"), 100, ".1f"),
            _format(metrics.get("val/best_miou"), 100, ".1f"),
            _format(metrics.get("train/loss"), 1, ".3f"),
            _format(metrics.get("images_per_second"), 1, ".0f"),
            clock(metrics.get("trial/seconds")),
            run.run_id,
        )
    return table


def _lock_holder(study: StudySummary) -> str:
    holder = study.lock_holder
    if holder is None:
        return ""
    if study.state == "silent":
        return f"{holder.owner.description}, no heartbeat for {clock(holder.age)}"
    return f"{holder.owner.description}, {holder.age:.0f} s ago"


def _trial_counts(study: StudySummary) -> str:
    counts = Counter(_LINKED if run in study.links else str(run.state) for run in study.present)
    superseded = sum(run.superseded for run in study.trials)
    if superseded:
        counts[_SUPERSEDED] = superseded
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _best(trials: Sequence[TrialRun]) -> str:
    scores = [run.metrics["val/miou"] for run in trials if "val/miou" in run.metrics]
    return f"{100 * max(scores):.1f}" if scores else ""


def _format(value: float | None, scale: float, spec: str) -> str:
    return "" if value is None else format(scale * value, spec)
