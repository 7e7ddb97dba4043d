"""How many seeds it takes to show a difference."""

import math

from scipy import stats

POWER = 0.8
SIGNIFICANCE = 0.05
# Standard deviation over seeds of the difference of two rows, in points of mIoU, before anything is
# measured: two rows that each vary by 0.4, which is common on Cityscapes.
ASSUMED_DEVIATION = math.sqrt(2) * 0.4
_MOST_SEEDS = 1000


def power_of(seeds: int, difference: float, deviation: float) -> float:
    """The chance that a two-sided paired t-test over `seeds` shows `difference`, where the paired
    differences have the standard deviation `deviation`, at the 5 % level.

    Noncentral t: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2.
    """
    if seeds < 2:
        return 0.0
    if deviation == 0:
        return 1.0 if difference else SIGNIFICANCE
    shift = abs(difference) / deviation * math.sqrt(seeds)
    if shift > 30:  # beyond what the noncentral distribution is computed for, and certain
        return 1.0
    freedom = seeds - 1
    critical = stats.t.isf(SIGNIFICANCE / 2, freedom)
    return float(stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift))


def seeds_needed(difference: float, deviation: float) -> int | None:
    """The fewest seeds that show `difference` in 80 % of all studies; None beyond a thousand."""
    low, high = 1, 2
    while power_of(high, difference, deviation) < POWER:
        low, high = high, 2 * high
        if low > _MOST_SEEDS:
            return None
    while high - low > 1:  # more seeds never show less
        middle = (low + high) // 2
        if power_of(middle, difference, deviation) < POWER:
            low = middle
        else:
            high = middle
    return high


def seeds_warning(seeds: int, difference: float, measured: float | None) -> str | None:
    """What to tell where `seeds` cannot show `difference` (points of mIoU); None where they can.

    measured: standard deviation over seeds of the paired differences, None before there is one.
    """
    deviation = ASSUMED_DEVIATION if measured is None else measured
    needed = seeds_needed(difference, deviation)
    if needed is not None and seeds >= needed:
        return None
    basis = "measured" if measured is not None else "assumed until two seeds are measured"
    enough = f"more than {_MOST_SEEDS} would be needed" if needed is None else f"{needed} would"
    return (
        f"{seeds} seed{'s' if seeds > 1 else ''} cannot show the expected difference of "
        f"{difference:.1f} points; {enough} (paired t-test, power 80 %, standard deviation of the "
        f"differences {deviation:.2f}, {basis})."
    )
