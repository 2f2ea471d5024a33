"""
Compare systems query by query: paired t-tests, Holm-corrected over all pairs.

Each query's value is first averaged over the seeds, so that a system is one sample, not several.
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
    """Report the test of systems `first` and `second`, which are indices into the tested sequence."""

    first: int
    second: int
    difference: float  # first minus second
    p: float  # two-sided, before correction
    corrected: float

    @property
    def significant(self) -> bool:
        return self.corrected < ALPHA

    def winner(self) -> int | None:
        """Return the significantly better system, or None."""
        if not self.significant:
            return None
        return self.first if self.difference > 0 else self.second


def paired_tests(systems: Sequence[Sequence[Mapping[str, float]]]) -> tuple[Pair, ...]:
    """Test each pair of systems. A system has a mapping of query id to value for each seed; all share the ids."""
    values = [_query_means(seeds) for seeds in systems]  # each [Q], in the same order of queries
    pairs = list(itertools.combinations(range(len(values)), 2))
    p_values = [_paired(values[first], values[second]) for first, second in pairs]
    tests = []
    for (first, second), p, corrected in zip(pairs, p_values, holm(p_values), strict=True):
        difference = float((values[first] - values[second]).mean())
        tests.append(Pair(first, second, difference, p, corrected))
    return tuple(tests)


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Return Holm-corrected p-values in the given order.

    Of m p-values, the i-th smallest is multiplied by m - i + 1; the products never fall and are at most 1.
    S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    ascending = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(ascending):
        product = min(1.0, (len(p_values) - rank) * p_values[index])
        largest = max(largest, product)
        corrected[index] = largest
    return corrected


def _query_means(seeds: Sequence[Mapping[str, float]]) -> np.ndarray:
    import numpy as np

    queries = sorted(seeds[0])
    values: np.ndarray = np.empty((len(seeds), len(queries)))
    for row, seed in enumerate(seeds):
        values[row] = [seed[query] for query in queries]
    return np.asarray(values.mean(axis=0))


def _paired(first: np.ndarray, second: np.ndarray) -> float:
    """Return the two-sided p-value of the paired t-test; without spread, 1 for no difference, otherwise 0."""
    from scipy.stats import ttest_rel

    differences = first - second
    if len(differences) < 2 or not differences.any():
        return 1.0
    if differences.max() == differences.min():
        return 0.0
    return float(ttest_rel(first, second).pvalue)
