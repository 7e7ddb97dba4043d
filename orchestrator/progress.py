"""What a person sees while a study runs: a live table on a terminal, a line an event in a log."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

TrialState = Literal["waiting", "starting", "training", "finished", "failed", "stopped"]
_STYLES: dict[TrialState, str] = {
    "waiting": "dim",
    "starting": "yellow",
    "training": "cyan",
    "finished": "green",
    "failed": "bold red",
    "stopped": "yellow",
}


@dataclass
class TrialProgress:
    """How far one trial is. miou is in [0, 1]; times are seconds since the epoch."""

    name: str
    epochs: int
    state: TrialState = "waiting"
    epoch: int = 0
    miou: float | None = None
    loss: float | None = None
    images_per_second: float | None = None
    resumed_at: int = 0
    first_epoch_at: float | None = None
    last_epoch_at: float | None = None

    def seconds_per_epoch(self) -> float | None:
        """Measured between the epochs seen in this run; None before the second."""
        seen = self.epoch - self.resumed_at
        if seen < 2 or self.first_epoch_at is None or self.last_epoch_at is None:
            return None
        return (self.last_epoch_at - self.first_epoch_at) / (seen - 1)


@dataclass
class StudyProgress:
    """The progress of all trials, shown live where the console is a terminal."""

    console: Console
    trials: dict[str, TrialProgress]
    _live: Live | None = field(default=None, init=False)
    _started: float = field(default_factory=time.time, init=False)

    @staticmethod
    def of(console: Console, trials: Sequence[TrialProgress]) -> "StudyProgress":
        return StudyProgress(console, {trial.name: trial for trial in trials})

    def __enter__(self) -> "StudyProgress":
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, get_renderable=self._table, refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, name: str) -> None:
        """Ray has begun to start the trial's processes."""
        self.trials[name].state = "starting"
        self._say(name, "starting")

    def epoch(self, name: str, epoch: int, metrics: dict[str, float]) -> None:
        """An epoch has been reported."""
        trial = self.trials[name]
        now = time.time()
        trial.state = "training"
        trial.epoch = epoch
        trial.first_epoch_at = trial.first_epoch_at or now
        trial.last_epoch_at = now
        trial.miou = metrics.get("val/miou", trial.miou)
        trial.loss = metrics.get("train/loss")
        trial.images_per_second = metrics.get("images_per_second")
        shown = f"epoch {epoch}/{trial.epochs}, loss {trial.loss:.3f}"
        if trial.miou is not None:
            shown += f", mIoU {100 * trial.miou:.1f} %"
        self._say(name, shown)

    def ended(self, name: str, state: TrialState, reason: str = "") -> None:
        """The trial is over."""
        self.trials[name].state = state
        self._say(name, f"{state}: {reason}" if reason else state)

    def say(self, message: str) -> None:
        """A line that stays, above the live table."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _say(self, name: str, message: str) -> None:
        """An event's line, where there is no live table to show it."""
        if self._live is None:
            elapsed = time.time() - self._started
            done = sum(trial.state == "finished" for trial in self.trials.values())
            self.say(f"[{_clock(elapsed)}] ({done}/{len(self.trials)} done) {name}: {message}")

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1), header_style="bold", title_justify="left")
        for column in ("trial", "", "epoch", "loss", "mIoU %", "images/s", "left", "state"):
            right = column in ("epoch", "loss", "mIoU %", "images/s", "left")
            table.add_column(column, justify="right" if right else "left", no_wrap=True)
        for trial in self.trials.values():
            left = trial.seconds_per_epoch()
            remaining = left * (trial.epochs - trial.epoch) if left is not None else None
            table.add_row(
                trial.name,
                ProgressBar(total=trial.epochs, completed=trial.epoch, width=16),
                f"{trial.epoch}/{trial.epochs}",
                _number(trial.loss, ".3f"),
                _number(None if trial.miou is None else 100 * trial.miou, ".1f"),
                _number(trial.images_per_second, ".0f"),
                _clock(remaining) if remaining is not None and trial.state == "training" else "",
                Text(trial.state, style=_STYLES[trial.state]),
            )
        done = sum(trial.state == "finished" for trial in self.trials.values())
        elapsed = _clock(time.time() - self._started)
        table.caption = (
            f"{done} of {len(self.trials)} trials finished, {elapsed} elapsed{self._left()}"
        )
        table.caption_justify = "left"
        return table

    def _left(self) -> str:
        """An estimate for the whole study from the epochs done so far."""
        done = sum(trial.epoch - trial.resumed_at for trial in self.trials.values())
        live = ("waiting", "starting", "training")
        todo = sum(t.epochs - t.epoch for t in self.trials.values() if t.state in live)
        if done == 0 or todo == 0:
            return ""
        return f", about {_clock((time.time() - self._started) / done * todo)} left"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
