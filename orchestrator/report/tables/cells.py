"""The text of the cells of a report's tables: scores, differences, p values, costs."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.report.rows.row import Row
from orchestrator.report.statistics.significance import ALPHA, Difference
from orchestrator.study.trial_state import TrialState

EMPTY = "-"
STALE, MIXED, INCOMPARABLE = "*", "†", "‡"


def miou_text(row: Row) -> str:
    """Return mean and standard deviation; if no seed has a score, the states of the seeds."""
    return mean_and_deviation(list(row.miou.values())) if row.miou else unscored(row) or EMPTY


def seeds_text(row: Row) -> str:
    """Return the number of seeds with a score, and of how many if some lack one."""
    scored, requested = len(row.miou), len(row.results)
    return str(scored) if scored == requested else f"{scored} of {requested}"


def unscored(row: Row) -> str:
    """Return the states of the seeds without a score, such as `1 failed, 2 missing`; without a
    count if all seeds of the row have the same state."""
    states = Counter(
        r.state for r in row.results if r.miou is None and r.state is not TrialState.FINISHED
    )
    if len(states) == 1 and not row.miou:
        return next(iter(states))
    return ", ".join(f"{count} {state}" for state, count in states.items())


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean, and from two values on the standard deviation."""
    if not values:
        return EMPTY
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def significant_text(values: Sequence[float]) -> str:
    """Return the mean with three significant digits, and from two values on the standard deviation
    with as many decimals."""
    if not values:
        return EMPTY
    mean = statistics.fmean(values)
    digits = max(0, 2 - math.floor(math.log10(mean))) if mean > 0 else 0
    return mean_and_deviation(values, digits)


def row_difference(row: Row, difference: Difference | None, digits: int = 2) -> str:
    """Return one of the differences of a row, or the mark of a row that is not comparable."""
    if row.incomparable:
        return INCOMPARABLE
    if difference is None:
        return EMPTY
    text = difference_text(difference, digits)
    return f"{text}\u00a0{MIXED}" if row.mixed_difference else text


def difference_text(difference: Difference, digits: int = 2) -> str:
    """Return a difference with its interval, or with half the width of its interval over images
    only."""
    text = signed(difference.mean, digits)
    if difference.interval is not None:
        low, high = difference.interval
        return f"{text} [{signed(low, digits)}, {signed(high, digits)}]"
    if difference.image_interval is not None:
        low, high = difference.image_interval
        return f"{text} (images\u00a0±{(high - low) / 2:.{digits}f})"
    return text


def p_text(value: float | None) -> str:
    """Return a p value with three decimals, or as many as show that it is below 0.05."""
    if value is None:
        return EMPTY
    digits = 3
    while value < ALPHA <= float(f"{value:.{digits}f}"):
        digits += 1
    return "<0.001" if value < 0.001 else f"{value:.{digits}f}"


def hours_text(value: float | None) -> str:
    """Return hours, with two significant digits or more; short trainings take seconds."""
    if value is None:
        return EMPTY
    if value >= 1:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def gflops_text(value: float | None) -> str:
    """Return GFLOPs; small networks on small images have far less than 1."""
    return EMPTY if value is None else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def number(value: float | None, digits: int) -> str:
    """Return a number with fixed decimals."""
    return EMPTY if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """Return a difference with its sign; zero has none."""
    if value is None:
        return EMPTY
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def axis_text(value: Any) -> str:
    """Return the value of a grid axis."""
    if value is None:
        return EMPTY
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def row_marks(row: Row) -> str:
    """Return the marks of a row that the warnings explain."""
    marks = (STALE if row.stale else "") + (MIXED if is_mixed(row) else "")
    return f"\u00a0{marks}" if marks else ""


def is_mixed(row: Row) -> bool:
    """Whether the seeds of a row differ in data, code or precision."""
    mixed = any(len(row.run_values(name)) > 1 for name in ("data", "precision"))
    return mixed or len(row.code_versions) > 1
