"""
Whether a measured mean equals a published number: an interval over seeds against a tolerance to either side.

* Interval, seed_interval   the t interval of a mean over seeds
* Equivalence, compare      the verdict, the interval behind it, and the seeds that would settle it

The questions are the paper's own, so they are fixed and the interval is over seeds alone. As in a test of
equivalence, a claim is reproduced when the whole interval lies within the tolerance, not when a difference is
insignificant: two seeds that scatter widely show nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from retrobench.scoring import ALPHA, critical_value

__all__ = ["CONFIDENCE", "Equivalence", "Interval", "compare", "compare_fixed", "seed_interval"]

CONFIDENCE = 1 - ALPHA
ROUNDING = 1e-9  # 0.3603 - 0.3553 is a little more than 0.005 in binary
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Interval:
    """The t interval of a mean over seeds."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


@dataclass(frozen=True)
class Equivalence:
    """A verdict on one published number. `interval` is None for one seed, and where nothing is drawn at random."""

    verdict: str
    interval: Interval | None = None
    reason: str = ""  # of TOO UNCERTAIN
    seeds_needed: int | None = None  # of TOO UNCERTAIN: the seeds that would settle it, None where MOST_SEEDS do not


def compare_fixed(measured: float, published: float, tolerance: float) -> Equivalence:
    """Return the verdict on a value that no seed changes."""
    return Equivalence(_side(measured - published, tolerance))


def compare(values: Sequence[float], published: float, tolerance: float) -> Equivalence:
    """Return the verdict on the values of seeds."""
    delta = statistics.fmean(values) - published
    if len(values) == 1:
        inside = _side(delta, tolerance) == "PASS"
        return Equivalence("WITHIN (one seed)" if inside else "OUTSIDE (one seed)")
    interval = seed_interval(values)
    low = _side(interval.low - published, tolerance)
    high = _side(interval.high - published, tolerance)
    if low == high:
        return Equivalence(low, interval)
    return _uncertain(values, delta, tolerance, interval)


def seed_interval(values: Sequence[float]) -> Interval:
    """Return the interval of the mean of at least two values."""
    return Interval(statistics.fmean(values), _half_width(statistics.stdev(values), len(values)))


def _side(delta: float, tolerance: float) -> str:
    """Return the verdict on a difference without spread."""
    if delta < -tolerance - ROUNDING:
        return "FAIL"
    if delta > tolerance + ROUNDING:
        return "PASS (+)"
    return "PASS"


def _half_width(deviation: float, seeds: int) -> float:
    return critical_value(seeds - 1) * deviation / math.sqrt(seeds)


def _uncertain(values: Sequence[float], delta: float, tolerance: float, interval: Interval) -> Equivalence:
    """Return TOO UNCERTAIN, with the least number of seeds whose interval would fit on one side of the limit.

    Mean and deviation are taken to stay. A mean within the tolerance settles as PASS, one outside as its side.
    """
    settled = _side(delta, tolerance)
    room = tolerance - abs(delta) + ROUNDING  # between the mean and the nearer limit
    if settled != "PASS":
        room = abs(delta) - tolerance - 2 * ROUNDING
    needed = _seeds_for(room, statistics.stdev(values), len(values))
    seeds = f"more than {MOST_SEEDS:,} seeds" if needed is None else f"{needed} seeds"
    reason = (
        f"the interval {interval.low:.4f} to {interval.high:.4f} is neither within the tolerance nor outside it; "
        f"{seeds} would do for {settled}, if mean and deviation stay"
    )
    return Equivalence("TOO UNCERTAIN", interval, reason, needed)


def _seeds_for(room: float, deviation: float, seeds: int) -> int | None:
    """Return the least number of seeds, above `seeds`, whose half-width is at most `room`."""
    for number in range(seeds + 1, MOST_SEEDS + 1):
        if _half_width(deviation, number) <= room:
            return number
    return None
