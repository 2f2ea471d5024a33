"""
Intervals of differences: for one pair, and for all pairs of a table together.

The interval of one pair takes Student's t. The simultaneous interval takes t at the level 1 - (1 - alpha)^(1/pairs):
the T2 of A. Tamhane, Commun. Stat. A 6 (1977), by Z. Šidák's inequality, J. Am. Stat. Assoc. 62 (1967).

Games and Howell's studentized range gives shorter intervals, which cover too little with few seeds: `coverage`
simulates both, and leaderboards/README.md has the figures. A bootstrap of three seeds is too short as well: resampling
S seeds shrinks their variance by (S - 1) / S.

* critical_value       the quantile of |t|, for one pair or for all pairs together
* half_width           of an interval
* p_value              of a difference, corrected for the number of pairs
* smallest_detectable  the smallest true difference that is shown with probability 0.8
* seeds_wanted         the least number of seeds for each line that decides a pair
"""

from __future__ import annotations

import math

from retrobench.scoring.components import Components

__all__ = [
    "ALPHA",
    "FEWEST_SEEDS",
    "POWER",
    "critical_value",
    "half_width",
    "p_value",
    "seeds_wanted",
    "smallest_detectable",
]

ALPHA = 0.05
POWER = 0.8
FEWEST_SEEDS = 3  # with fewer, no difference is called significant
MOST_SEEDS = 1_000_000  # nobody trains as many: the search ends here


def half_width(components: Components, pairs: int = 1) -> float:
    """Return half the length of a 95 % interval that holds for this many pairs together."""
    return critical_value(components.freedom, pairs) * math.sqrt(components.variance)


def critical_value(freedom: float, pairs: int = 1) -> float:
    """Return the quantile of |t| that all of `pairs` differences stay below with probability 1 - ALPHA, or more."""
    from scipy.special import stdtrit

    alpha = -math.expm1(math.log1p(-ALPHA) / pairs)
    return float(-stdtrit(freedom, alpha / 2))


def p_value(difference: float, components: Components, pairs: int = 1) -> float:
    """Return the two-sided p-value, corrected for the number of pairs by Šidák."""
    from scipy.special import stdtr

    if components.variance == 0:
        return float(difference == 0)
    t = abs(difference) / math.sqrt(components.variance)
    single = min(1.0, 2 * float(stdtr(components.freedom, -t)))
    if single == 1:
        return 1.0
    return -math.expm1(pairs * math.log1p(-single))


def smallest_detectable(components: Components, pairs: int) -> float:
    """Return the smallest true difference whose simultaneous interval excludes 0 with probability POWER."""
    from scipy.optimize import brentq
    from scipy.stats import nct

    critical = critical_value(components.freedom, pairs)

    def excess(shift: float) -> float:
        return float(nct.sf(critical, components.freedom, shift)) - POWER

    highest = critical
    while excess(highest) < 0:
        highest *= 2
    return float(brentq(excess, 0.0, highest)) * math.sqrt(components.variance)


def seeds_wanted(difference: float, components: Components, pairs: int) -> int | None:
    """
    Return the least number of seeds for each line with which the simultaneous interval would exclude 0.

    The estimates of difference and variances stay as they are. None: the questions alone leave it open, or no line of
    the pair is random.
    """
    if not any(arm.seeds for arm in components.arms):
        return None
    questions = math.sqrt(max(0.0, components.questions_alone))
    if abs(difference) <= critical_value(components.clusters - 1, pairs) * questions:
        return None
    upper = FEWEST_SEEDS
    while not _decides(difference, components.with_seeds(upper), pairs):
        if upper > MOST_SEEDS:
            return None
        upper *= 2
    lower = max(FEWEST_SEEDS - 1, upper // 2)
    while upper - lower > 1:
        middle = (lower + upper) // 2
        if _decides(difference, components.with_seeds(middle), pairs):
            upper = middle
        else:
            lower = middle
    return upper


def _decides(difference: float, components: Components, pairs: int) -> bool:
    return abs(difference) > half_width(components, pairs)
