"""Power analysis: how many seeds are needed to detect a difference."""

import math

from scipy import stats

POWER = 0.8
SIGNIFICANCE = 0.05
# Assumed standard deviation over seeds of the difference of two rows, in points of mIoU, until it
# is measured: each row has a standard deviation of 0.4, which is common on Cityscapes.
ASSUMED_DEVIATION = math.sqrt(2) * 0.4
_MAX_SEEDS = 1000


def power_of(seeds: int, difference: float, deviation: float) -> float:
    """Return the probability that a two-sided paired t-test over `seeds` detects `difference` at
    the 5 % level, if the paired differences have the standard deviation `deviation`.

    Noncentral t: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2.
    """
    if seeds < 2:
        return 0.0
    if deviation == 0:
        return 1.0 if difference else SIGNIFICANCE
    shift = abs(difference) / deviation * math.sqrt(seeds)
    if shift > 30:  # scipy's noncentral t is unreliable here, and the power is 1
        return 1.0
    freedom = seeds - 1
    critical = stats.t.isf(SIGNIFICANCE / 2, freedom)
    return float(stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift))


def seeds_needed(difference: float, deviation: float) -> int | None:
    """Return the fewest seeds that detect `difference` with a power of 80 %; None above 1000."""
    low, high = 1, 2
    while power_of(high, difference, deviation) < POWER:
        low, high = high, 2 * high
        if low > _MAX_SEEDS:
            return None
    while high - low > 1:  # bisection: power increases with the number of seeds
        middle = (low + high) // 2
        if power_of(middle, difference, deviation) < POWER:
            low = middle
        else:
            high = middle
    return high


def seeds_warning(seeds: int, difference: float, measured: float | None) -> str | None:
    """Return a warning if `seeds` are too few to detect `difference` in points of mIoU.

    measured: standard deviation over seeds of the paired differences; None if not yet measured.
    """
    deviation = ASSUMED_DEVIATION if measured is None else measured
    needed = seeds_needed(difference, deviation)
    if needed is not None and seeds >= needed:
        return None
    basis = "measured" if measured is not None else "assumed until two seeds are measured"
    enough = f"more than {_MAX_SEEDS}" if needed is None else str(needed)
    few = f"{seeds} seeds are" if seeds > 1 else f"{seeds} seed is"
    return (
        f"{few} too few to detect the expected difference of {difference:.1f} points; {enough} are "
        f"needed (paired t-test, power 80 %, standard deviation of the differences "
        f"{deviation:.2f}, {basis})."
    )
