"""
Which of several systems are better than which, query by query: paired t-tests, Holm-corrected over all pairs.

Averaging a query's value over seeds first makes the seeds of one system one sample, not several.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ALPHA", "Pair", "holm", "paired_tests"]

ALPHA = 0.05


@dataclass(frozen=True)
class Pair:
    """Systems `first` and `second`, by their places in the sequence that was tested."""

    first: int
    second: int
    difference: float  # first minus second
    p: float  # two-sided, before correction
    corrected: float

    @property
    def significant(self) -> bool:
        return self.corrected < ALPHA

    def winner(self) -> int | None:
        """The system that is better beyond the threshold, if one is."""
        if not self.significant:
            return None
        return self.first if self.difference > 0 else self.second


def paired_tests(systems: Sequence[Sequence[Mapping[str, float]]]) -> tuple[Pair, ...]:
    """Each pair of systems, tested. A system is the values by query id of each seed; all share the ids."""
    values = [_query_means(seeds) for seeds in systems]  # each [Q], in one order of queries
    places = list(itertools.combinations(range(len(values)), 2))
    ps = [_paired(values[a], values[b]) for a, b in places]
    return tuple(
        Pair(a, b, float((values[a] - values[b]).mean()), p, corrected)
        for (a, b), p, corrected in zip(places, ps, holm(ps), strict=True)
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Holm-corrected p-values in the order given: the i-th smallest of m times m - i + 1, rising, at most 1.

    S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    corrected, worst = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = worst
    return corrected


def _query_means(rows: Sequence[Mapping[str, float]]) -> np.ndarray:
    import numpy as np

    queries = sorted(rows[0])
    values: np.ndarray = np.array([[row[query] for query in queries] for row in rows], np.float64)
    return np.asarray(values.mean(axis=0))


def _paired(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of the paired t-test; where the differences have no spread, 1 if they are 0 and else 0."""
    from scipy.stats import ttest_rel

    spread = a - b
    if len(spread) < 2 or not spread.any():
        return 1.0
    if spread.max() == spread.min():
        return 0.0
    return float(ttest_rel(a, b).pvalue)
