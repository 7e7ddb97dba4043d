"""Shows the progress of a study: a live table on a terminal, otherwise one line for each event."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.console import say, warn
from orchestrator.study.trial_state import TrialState

# Which trials to show first if not all of them fit on the screen.
_DISPLAY_ORDER: tuple[TrialState, ...] = (
    TrialState.TRAINING,
    TrialState.STARTING,
    TrialState.FAILED,
    TrialState.FINISHED,
    TrialState.WAITING,
    TrialState.INTERRUPTED,
    TrialState.STOPPED_EARLY,
)
_MIN_WIDE_COLUMNS = 110  # terminal width that fits all columns of the table
_OTHER_LINES = 6  # lines of the screen for header, summary and prompt


@dataclass
class TrialProgress:
    """The progress of one trial. miou (of the last validation) and best are in [0, 1]; times are in
    seconds since the epoch. last_epoch: length of the last epoch, as a fraction of the others'."""

    name: str
    epochs: int
    last_epoch: float = 1.0
    state: TrialState = TrialState.WAITING
    epoch: int = 0
    miou: float | None = None
    best: float | None = None
    loss: float | None = None
    images_per_second: float | None = None
    resumed_at: int = 0
    started_at: float | None = None
    first_epoch_at: float | None = None
    last_epoch_at: float | None = None

    def seconds_per_epoch(self) -> float | None:
        """Return the mean time between the epochs of this run; None before the second epoch."""
        epochs = self.epoch - self.resumed_at
        if epochs < 2 or self.first_epoch_at is None or self.last_epoch_at is None:
            return None
        return (self.last_epoch_at - self.first_epoch_at) / (epochs - 1)

    def start_seconds(self) -> float | None:
        """Return the time from the start of this run to its first epoch; None if unknown."""
        pace = self.seconds_per_epoch()
        if pace is None or self.started_at is None or self.first_epoch_at is None:
            return None
        return max(0.0, self.first_epoch_at - self.started_at - pace)

    def work_left(self, now: float, pace: float, start: float) -> float:
        """Return the expected seconds of training left at time `now`.

        pace, start: seconds per epoch, and from the start to the first epoch, of the other trials.
        """
        pace = self.seconds_per_epoch() or pace
        epochs = self.epochs - max(self.epoch, self.resumed_at)
        seconds = start + pace * max(0.0, epochs - 1 + self.last_epoch)
        if self.state is TrialState.TRAINING and self.last_epoch_at is not None:
            seconds -= start + min(now - self.last_epoch_at, pace)
        elif self.state is TrialState.STARTING and self.started_at is not None:
            seconds -= min(now - self.started_at, start + pace)
        return max(0.0, seconds)

    def seconds_left(self, now: float) -> float | None:
        """Return the expected time until the last epoch; None unless the trial is training."""
        pace = self.seconds_per_epoch()
        if pace is None or self.state != TrialState.TRAINING:
            return None
        return self.work_left(now, pace, 0.0)


@dataclass
class StudyProgress:
    """The progress of all trials, shown live if the console is a terminal."""

    console: Console
    trials: dict[str, TrialProgress]
    _live: Live | None = field(default=None, init=False)
    _started: float = field(default_factory=time.time, init=False)
    _most_running: int = field(default=0, init=False)

    @staticmethod
    def of(console: Console, trials: Sequence[TrialProgress]) -> "StudyProgress":
        return StudyProgress(console, {trial.name: trial for trial in trials})

    def __enter__(self) -> "StudyProgress":
        if self.console.is_interactive:
            # Output of libraries goes to the log; on the screen it would overwrite the table.
            self._live = Live(
                console=self.console,
                get_renderable=self._table,
                refresh_per_second=2,
                redirect_stdout=False,
                redirect_stderr=False,
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
        """Call when Ray starts the trial's processes."""
        trial = self.trials[name]
        trial.state, trial.started_at = TrialState.STARTING, time.time()
        running = (TrialState.STARTING, TrialState.TRAINING)
        count = sum(each.state in running for each in self.trials.values())
        self._most_running = max(self._most_running, count)
        self._say_event(name, TrialState.STARTING)

    def epoch(self, name: str, epoch: int, metrics: dict[str, float]) -> None:
        """Call when the trial reports an epoch."""
        trial = self.trials[name]
        now = time.time()
        trial.state = TrialState.TRAINING
        trial.epoch = epoch
        trial.first_epoch_at = trial.first_epoch_at or now
        trial.last_epoch_at = now
        trial.miou = metrics.get("val/miou", trial.miou)
        trial.best = metrics.get("val/best_miou", trial.best)
        trial.loss = metrics.get("train/loss")
        trial.images_per_second = metrics.get("images_per_second")
        message = f"epoch {epoch}/{trial.epochs}, loss {trial.loss:.3f}"
        if trial.miou is not None:
            message += f", mIoU {100 * trial.miou:.1f} %"
        self._say_event(name, message)

    def interrupted(self, name: str) -> None:
        """Call when the trial has lost its workers and waits for others."""
        trial = self.trials[name]
        trial.state = TrialState.WAITING
        # Its pace is that of the epochs after the wait.
        trial.resumed_at = trial.epoch
        trial.started_at = trial.first_epoch_at = None
        self._say_event(name, f"{TrialState.WAITING}: it lost its workers")

    def ended(self, name: str, state: TrialState, reason: str = "") -> None:
        """Call when the trial has ended."""
        self.trials[name].state = state
        self._say_event(name, f"{state}: {reason}" if reason else state)

    def refused(self, message: str) -> None:
        """Call when the cluster refuses to start machines, unless no trial waits for them."""
        waiting = (TrialState.WAITING, TrialState.STARTING)
        if any(trial.state in waiting for trial in self.trials.values()):
            warn(self.console, f"trials wait for machines that were refused: {message}")

    def warn(self, message: str) -> None:
        """Print a warning above the live table."""
        warn(self.console, message)

    def say(self, message: str) -> None:
        """Print a permanent line above the live table."""
        say(self.console, message)

    def _say_event(self, name: str, message: str) -> None:
        """Print an event, unless the live table shows it."""
        if self._live is None:
            elapsed = time.time() - self._started
            done = sum(trial.state == TrialState.FINISHED for trial in self.trials.values())
            line = " ".join(message.split())  # some libraries' errors have several lines
            self.say(f"[{clock(elapsed)}] ({done}/{len(self.trials)} done) {name}: {line}")

    def _table(self) -> Table:
        """Return the trials that fit on the screen, with a summary of the study as the caption."""
        width, height = self.console.size
        wide = width >= _MIN_WIDE_COLUMNS
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", title_justify="left")
        # Of all columns, only this one shrinks on a narrow screen.
        table.add_column("trial", overflow="ellipsis")
        if wide:
            table.add_column("", no_wrap=True)
        for column in (
            "epoch",
            "loss",
            "mIoU %",
            *(["best %", "images/s"] if wide else []),
            "left",
        ):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True)
        shown = self._trials_to_show(max(3, height - _OTHER_LINES))
        for trial in shown:
            row: list[RenderableType] = [Text(trial.name, no_wrap=True)]
            if wide:
                row.append(ProgressBar(total=trial.epochs, completed=trial.epoch, width=16))
            row += [
                f"{trial.epoch}/{trial.epochs}",
                _number(trial.loss, ".3f"),
                _number(trial.miou, ".1f", 100),
            ]
            if wide:
                row += [_number(trial.best, ".1f", 100), _number(trial.images_per_second, ".0f")]
            row += [
                clock(trial.seconds_left(time.time())),
                Text(trial.state, style=trial.state.style),
            ]
            table.add_row(*row)
        table.caption = self._summary(len(self.trials) - len(shown))
        table.caption_justify = "left"
        return table

    def _trials_to_show(self, count: int) -> list[TrialProgress]:
        """Select at most `count` trials by state and by latest epoch; return them in the study's
        order."""
        order = {state: index for index, state in enumerate(_DISPLAY_ORDER)}
        by_relevance = sorted(
            self.trials.values(),
            key=lambda trial: (order[trial.state], -(trial.last_epoch_at or 0.0)),
        )
        chosen = {trial.name for trial in by_relevance[:count]}
        return [trial for trial in self.trials.values() if trial.name in chosen]

    def _summary(self, hidden: int) -> Text:
        counts = Counter(trial.state for trial in self.trials.values())
        parts = [f"{counts[TrialState.FINISHED]} of {len(self.trials)} trials finished"]
        parts += [
            f"{counts[state]} {state}"
            for state in (
                TrialState.TRAINING,
                TrialState.STARTING,
                TrialState.FAILED,
                TrialState.WAITING,
            )
            if counts[state]
        ]
        leader = max(
            (trial for trial in self.trials.values() if trial.best is not None),
            key=lambda trial: trial.best or 0.0,
            default=None,
        )
        text = Text(", ".join(parts) + f"; {clock(time.time() - self._started)} elapsed")
        text.append(self._time_left())
        training = [trial for trial in self.trials.values() if trial.state == TrialState.TRAINING]
        speed = sum(trial.images_per_second or 0.0 for trial in training)
        if speed:
            text.append(f", {speed:.0f} images/s")
        if leader is not None and leader.best is not None:
            text.append(f"\nbest so far: {100 * leader.best:.1f} % by {leader.name}")
        if hidden:
            text.append(f"\n{hidden} more not shown")
        return text

    def _time_left(self) -> str:
        """Estimate the time until the last trial ends, once a trial has shown its speed."""
        now = time.time()
        trials = self.trials.values()
        paces = [pace for trial in trials if (pace := trial.seconds_per_epoch()) is not None]
        unfinished = [
            trial
            for trial in trials
            if trial.state in (TrialState.WAITING, TrialState.STARTING, TrialState.TRAINING)
        ]
        if not paces or not unfinished:
            return ""
        starts = [start for trial in trials if (start := trial.start_seconds()) is not None]
        pace, start = fmean(paces), fmean(starts) if starts else 0.0
        work = [trial.work_left(now, pace, start) for trial in unfinished]
        return f", about {clock(max(sum(work) / max(1, self._most_running), *work))} left"


def _number(value: float | None, spec: str, scale: float = 1.0) -> str:
    return "" if value is None else format(scale * value, spec)


def clock(seconds: float | None) -> str:
    """Format a time as `M:SS` or `H:MM:SS`; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
