"""Prints the plan of a study: its trials with state and cost, and the totals (`--plan`)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.planning.estimate import Calibration, Estimate
from orchestrator.planning.forecast import TrialForecast
from orchestrator.planning.plan import StudyPlan
from orchestrator.scheduling.capacity import Placement
from orchestrator.scheduling.launch import HourlyPrice
from orchestrator.study.sampling import value_text
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from pipelines.wording import counted

_NARROW, _WIDE = 100, 140  # characters
_NAME = 10  # characters that a trial's name gets at least
_GAP = "  "
_SOURCES = {"trial": "finished trials", "preflight": "preflight runs", "probe": "a short probe"}


def show_plan(plan: StudyPlan, console: Console) -> None:
    """Print the trials with their state and cost, then the totals of the study."""
    states, forecast = plan.states, plan.forecast
    counts = Counter(states[trial.trial.name] for trial in forecast.trials)
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    console.print(
        f"[bold]{plan.study.config.study}[/]: {counted(len(forecast.trials), 'trial')}: {by_state}",
        highlight=False,
    )
    rule = "-" if console.options.ascii_only else "─"
    table = _trials(forecast.trials, states, plan.placement, console.width, rule)
    console.print(table, highlight=False, soft_wrap=True)
    for line in _sample_lines(plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    launch = plan.launch
    console.print(_totals(plan))
    console.print(_basis(plan.calibration, plan.device), style="dim", highlight=False, markup=False)
    for remark in launch.remarks if launch else ():
        console.print(remark, style="dim", highlight=False, markup=False, soft_wrap=True)
    others = filter(None, [plan.shortage, plan.lost_checkpoints])
    for warning in (*(launch.obstacles if launch else ()), *others):
        console.print(Text.assemble(("warning", "yellow"), f"  {warning}"), soft_wrap=True)


def _sample_lines(plan: StudyPlan) -> list[str]:
    """Return the values of each sample of a search, once if all rows share them, and how many are
    not drawn yet."""
    sampling = plan.study.config.sampling
    if sampling is None:
        return []
    lines: dict[str, None] = {}
    numbers: dict[tuple[str, ...], set[int]] = {}
    for each in plan.forecast.trials:
        cell, sample = each.trial.cell, each.trial.sample
        assert sample is not None
        numbers.setdefault(cell, set()).add(sample.number)
        shared = sample.number < sampling.random_count
        name = sample.name if shared else ", ".join((*cell, sample.name))
        values = ", ".join(f"{key} {value_text(value)}" for key, value in sample.values.items())
        lines[f"{name}: {values}"] = None
    if sampling.method == "tpe" and not plan.study.is_partial:
        later = sum(sampling.count - len(known) for known in numbers.values())
        if later:
            trials = counted(later * len(plan.study.config.repetitions), "trial")
            lines[
                f"{later} more samples ({trials}) are drawn later, by the scores of these; the "
                "totals are without them"
            ] = None
    return [*lines, ""]


def placement_line(study: Study, placement: Placement) -> str:
    """Describe how many trials run at a time, and on which devices."""
    resources = study.config.resources
    fewest, most = resources.fewest_workers, resources.most_workers
    workers = f"{fewest} to {most}" if most > fewest else str(fewest)
    line = (
        f"{counted(placement.concurrent, 'trial')} at a time, "
        f"{workers} worker{'' if most == 1 else 's'} each, on {placement.device}"
    )
    if placement.gpu_types:
        line += f" ({' and '.join(placement.gpu_types)})"
    if len(placement.gpu_types) > 1:
        line += "; set resources.accelerator to use one GPU type only"
    return line


def duration(seconds: float) -> str:
    """Format a time for people: `45 s`, `7 min`, `3 h 20 min`, `52 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours < 10 else f"{round(seconds / 3600)} h"


def _trials(
    trials: Sequence[TrialForecast],
    states: Mapping[str, TrialState],
    placement: Placement,
    width: int,
    rule: str,
) -> Text:
    """Build the table of trials, with as many columns as fit into `width` characters.

    rule: the character of the line below the header.

    It is text instead of rich's table, which takes half a minute for ten thousand rows.
    """
    wide = width >= _WIDE
    header = ["trial", "state", "identity", "M params", "GFLOPs", "epochs", "steps", "time"]
    if width < _NARROW:
        header[3] = "M par."
    if wide:
        header += ["80 % interval", _hours_of(placement), "disk"]
    rows = [header]
    for entry in trials:
        row = [
            entry.trial.name,
            str(states[entry.trial.name]),
            entry.trial.identity[: 8 if width < _NARROW else 12],
            f"{entry.trial.cost.parameters_m:.2f}",
            f"{entry.trial.cost.gflops:.2f}",
            str(entry.trial.duration.epochs),
            str(entry.trial.duration.steps),
            "" if entry.estimate is None else duration(entry.estimate.value),
        ]
        rows.append(row + _wide_columns(entry) if wide else row)
    names, *others = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in others]
    room = max(_NAME, width - sum(widths) - len(_GAP) * len(widths))
    name_width = min(room, max(map(_width, names)))
    table = Text()
    for index, (name, state, identity, *numbers) in enumerate(rows):
        first, *rest = _folded(name, name_width)
        table.append(f"{first}{_GAP}", "bold" if index == 0 else "")
        style = "bold" if index == 0 else states[name].style
        table.append(state.ljust(widths[0]), style)
        cells = [identity.ljust(widths[1])]
        cells += [cell.rjust(size) for cell, size in zip(numbers, widths[2:], strict=True)]
        table.append(_GAP + _GAP.join(cells), "bold" if index == 0 else "")
        table.append("".join(f"\n{part}" for part in rest) + "\n")
        if index == 0:
            table.append(rule * (name_width + sum(widths) + len(_GAP) * len(widths)) + "\n")
    return table


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _folded(text: str, width: int) -> list[str]:
    """Return the text in lines of `width` characters of a terminal."""
    if _width(text) <= width:
        return [text + " " * (width - _width(text))]
    return [set_cell_size(line, width) for line in chop_cells(text, width)]


def _wide_columns(trial: TrialForecast) -> list[str]:
    if trial.estimate is None:
        return ["", "", size_text(trial.disk)]
    return [
        _interval(trial.estimate, duration),
        _hours(trial.device_hours),
        size_text(trial.disk),
    ]


def _totals(plan: StudyPlan) -> Table:
    """Build the table of the study's totals, one per line."""
    study, forecast, overhead = plan.study, plan.forecast, plan.overhead
    placement, launch, wall = plan.placement, plan.launch, plan.wall
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    to_train = {t.trial.identity for t in forecast.trials if t.estimate is not None}
    table.add_row("to train", str(len(to_train)), placement_line(study, placement))
    if plan.to_score:
        table.add_row("to score", str(plan.to_score), "scores of trained trials, not in the times")
    if not to_train:
        return table
    if launch is not None:
        to_start = ", ".join(f"{count} x {name}" for name, count in launch.machines.items())
        table.add_row("machines", to_start or "none", "to start, besides the connected ones")
    hours = forecast.device_hours
    table.add_row("wall time", *_with_interval(wall, duration, "for the whole command"))
    parts = "starting, preflight, report" if overhead.preflight else "starting, report"
    basis = "timed by earlier studies" if overhead.measured else "a rough allowance"
    table.add_row("- outside trials", duration(overhead.seconds), f"{parts}: {basis}")
    table.add_row(
        "longest trial", duration(forecast.longest.value), "lower bound, however many machines"
    )
    table.add_row(_hours_of(placement), *_with_interval(hours, _hours))
    table.add_row(
        "disk", size_text(forecast.disk), "checkpoints, and weights in the tracking store"
    )
    if forecast.cost is not None:
        cost, price = forecast.cost, study.config.resources.price_per_gpu_hour
        note = f"at {price:g} per GPU-hour"
        table.add_row("cost", *_with_interval(cost, "{:.2f}".format, note))
    if launch is not None and launch.price is not None:
        for row in _price_rows(launch.price, wall.high / 3600, study.config.limits.wall_hours):
            table.add_row(*row)
    limit, used = study.config.limits.gpu_hours, plan.used_hours
    if limit is not None and used + hours.high > limit:
        certainty = "will" if used + hours.low > limit else "may"
        message = f"limits.gpu_hours {certainty} stop the study early"
        message += f"; it has used {_hours(used)} of them" if used else ""
        table.add_row("limit", f"{limit:g}", message)
    return table


def _price_rows(
    price: HourlyPrice, hours: float, limit: float | None
) -> list[tuple[str, str, str]]:
    """Return the rows with the hourly price of the machines and the most that the study costs.

    hours: upper end of the wall time. limit: `limits.wall_hours`.
    """
    rows = [("price", _dollars(price.dollars, " per hour"), price.basis)]
    used, reason = hours, "the upper end of the wall time; limits.wall_hours would ensure it"
    if limit is not None and limit < hours:
        used, reason = limit, "limits.wall_hours"
    elif limit is not None:
        reason = "the upper end of the wall time"
    bound = price.bound(used)
    if bound is not None:
        around = f"and {duration(3600 * price.unused_hours)} to set up and idle"
        rows.append(("- at most", _dollars(bound), f"{duration(3600 * used)} ({reason}) {around}"))
    return rows


def _dollars(amount: float | None, unit: str = "") -> str:
    return "unknown" if amount is None else f"${amount:.2f}{unit}"


def _basis(calibration: Calibration, device: str) -> str:
    """Describe the source of the times and of their intervals."""
    if not calibration.measured:
        reason = (
            "no timings for this device yet"
            if device
            else "no node is up, so the device is unknown"
        )
        return f"Times are rules of thumb: {reason}. Ranges: rough 80 % intervals"
    loads = {
        replace(each.workload, evaluated_images=0, evaluated_megapixels=0.0)
        for each in calibration.measured
    }
    count = counted(len(loads), "different network")
    sources = dict.fromkeys(_SOURCES[measured.source] for measured in calibration.measured)
    return (
        f"Times from {' and '.join(sources)} on {device} ({count}). Ranges: "
        "80 % intervals, wider for training runs unlike the measured ones"
    )


def _hours_of(placement: Placement) -> str:
    return f"{_device_of(placement)}-hours"


def _hours(value: float) -> str:
    """Format hours with two significant digits or more."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _device_of(placement: Placement) -> str:
    return "GPU" if placement.device == "cuda" else "worker"


def _interval(estimate: Estimate, text: Callable[[float], str]) -> str:
    """Return the interval of an estimate; a single value if its ends are the same as text."""
    low, high = text(estimate.low), text(estimate.high)
    return low if low == high else f"{low} to {high}"


def _with_interval(
    estimate: Estimate, text: Callable[[float], str], note: str = ""
) -> tuple[str, str]:
    """Return an estimate as text, and its interval, unless it is that text, with a note."""
    value, interval = text(estimate.value), _interval(estimate, text)
    return value, ", ".join(part for part in (interval, note) if part and part != value)


def size_text(amount: float) -> str:
    """Format a number of bytes."""
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{amount / 1000:.1f} TB"
