"""Power analysis: how likely a number of seeds is to detect a difference."""

import math

from scipy import special

from orchestrator.report.statistics.seed_spread import PRIOR
from orchestrator.report.statistics.significance import ALPHA, POWER

# Assumed standard deviation over seeds of the difference of two rows, in points of mIoU, until it
# is measured: each row has a standard deviation of 0.4, which is common on Cityscapes.
ASSUMED_DEVIATION = math.sqrt(2) * 0.4
_MAX_SEEDS = 1000


def power_of(
    seeds: int, difference: float, deviation: float, rows: int = 2, comparisons: int = 1
) -> float:
    """Return the probability that a two-sided paired t-test over `seeds` detects `difference` at
    the level of 5 % divided by `comparisons`, if the paired differences have the standard deviation
    `deviation`, estimated from `rows` of a grid cell.

    Noncentral t: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2.
    """
    freedom = (seeds - 1) + min(PRIOR, (rows - 2) * (seeds - 1))  # as in `seed_error`
    if seeds < 2 or (seeds == 2 and rows == 2):
        return 0.0
    level = ALPHA / comparisons
    if deviation == 0:
        return 1.0 if difference else level
    shift = abs(difference) / deviation * math.sqrt(seeds)
    if shift > 30:  # scipy's noncentral t is unreliable here, and the power is 1
        return 1.0
    critical = -special.stdtrit(freedom, level / 2)
    below, above = special.nctdtr(freedom, shift, [-critical, critical])
    return float(below + 1 - above)


def seeds_needed(
    difference: float, deviation: float, rows: int = 2, comparisons: int = 1
) -> int | None:
    """Return the fewest seeds that detect `difference` with a power of 80 %; None above 1000."""
    low, high = 1, 2
    while power_of(high, difference, deviation, rows, comparisons) < POWER:
        low, high = high, 2 * high
        if low > _MAX_SEEDS:
            return None
    while high - low > 1:  # bisection: power increases with the number of seeds
        middle = (low + high) // 2
        if power_of(middle, difference, deviation, rows, comparisons) < POWER:
            low = middle
        else:
            high = middle
    return high


def seeds_warning(
    seeds: int, difference: float, source: str, rows: int = 2, comparisons: int = 1
) -> str | None:
    """Return a warning if `seeds` are less than 80 % likely to detect `difference` in points of
    mIoU, before their spread has been measured.

    source: where the difference comes from. rows: number of rows in a grid cell. comparisons: that
    p values are adjusted for.
    """
    needed = seeds_needed(difference, ASSUMED_DEVIATION, rows, comparisons)
    if needed is not None and seeds >= needed:
        return None
    enough = f"more than {_MAX_SEEDS}" if needed is None else str(needed)
    basis = (
        f"if the difference varies by {ASSUMED_DEVIATION:.2f} from seed to seed (assumed; replaced "
        "by the measured spread once it is known)"
    )
    power = power_of(seeds, difference, ASSUMED_DEVIATION, rows, comparisons)
    if power == 0:
        few = "One seed" if seeds == 1 else f"{seeds} seeds of {rows} rows"
        return (
            f"{few} cannot test a difference. {enough} seeds would detect {difference:.1f} "
            f"points ({source}) in at least {100 * POWER:.0f} % of studies, {basis}."
        )
    return (
        f"{seeds} seeds detect {difference:.1f} points ({source}) in about {100 * power:.0f} % of "
        f"studies, {enough} seeds in at least {100 * POWER:.0f} %, {basis}."
    )
