"""
Compare systems over seeds and questions: intervals for every pair, and a randomisation test for few questions.

* compare_systems   the PairwiseTest of all systems
* sign_flip_test    a randomisation test over clusters of questions
* holm              correction of p-values
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from retrobench.scoring.components import Arm, decompose, measure_arm
from retrobench.scoring.intervals import (
    ALPHA,
    FEWEST_SEEDS,
    half_width,
    p_value,
    seeds_wanted,
    smallest_detectable,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "FEW_CLUSTERS",
    "MANY_CLUSTERS",
    "Pair",
    "PairwiseTest",
    "System",
    "compare_systems",
    "holm",
    "sign_flip_test",
]

FEW_CLUSTERS = 100  # below, t leans on too few clusters, and the sign-flip test must agree
MANY_CLUSTERS = 1000  # from here on, sentences give the effect size before p
FLIPS = 10_000

Interval = tuple[float, float]


@dataclass(frozen=True)
class System:
    """The values of a system by query, a mapping for each seed."""

    seeds: Sequence[Mapping[str, float]]
    random: bool = True  # False: nothing is drawn at random, so one mapping is all there is


@dataclass(frozen=True)
class Pair:
    """Report the comparison of systems `first` and `second`, which are indices into the compared sequence.

    Intervals, `p` and what follows from them are None where a random system has one seed, or all queries are one
    cluster.
    """

    first: int
    second: int
    difference: float  # first minus second
    seeds: int | None  # of the random system with the fewest; None where neither is random
    effect: float | None = None  # difference / sample deviation over queries of the seed-averaged differences
    interval: Interval | None = None  # 95 %, for this pair alone
    simultaneous: Interval | None = None  # 95 %, for all pairs together
    p: float | None = None  # two-sided, corrected for all pairs, of the simultaneous interval
    flip_p: float | None = None  # of the sign-flip test, Holm-corrected; None with enough clusters
    smallest_detectable: float | None = None
    seeds_wanted: int | None = None  # of each random system, to decide the pair; None: no number of seeds would

    @property
    def significant(self) -> bool:
        """Tell whether the simultaneous interval excludes 0, with three seeds, and the sign-flip test agrees."""
        if self.simultaneous is None or (self.seeds is not None and self.seeds < FEWEST_SEEDS):
            return False
        low, high = self.simultaneous
        if low <= 0 <= high:
            return False
        return self.flip_p is None or self.flip_p < ALPHA

    def turned(self) -> Pair:
        """Return the comparison of the second system with the first."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=-self.difference,
            effect=None if self.effect is None else -self.effect,
            interval=_turned(self.interval),
            simultaneous=_turned(self.simultaneous),
        )

    def winner(self) -> int | None:
        """Return the significantly better system, or None."""
        if not self.significant:
            return None
        return self.first if self.difference > 0 else self.second


@dataclass(frozen=True)
class PairwiseTest:
    """The pairs of all systems, and the size of the sample of questions."""

    pairs: tuple[Pair, ...] = ()
    queries: int = 0
    clusters: int = 0


@dataclass(frozen=True)
class _Summary:
    """A system's seed-averaged values [Q], and its variances. None: one seed shows no variance."""

    means: np.ndarray
    arm: Arm | None


def compare_systems(systems: Sequence[System], clusters: Mapping[str, int] | None = None) -> PairwiseTest:
    """Compare each pair of systems, all scored on equal queries.

    `clusters` gives the cluster of a query. A query that it lacks is a cluster of its own.
    """
    queries = sorted(systems[0].seeds[0])
    labels = _number_clusters(queries, clusters or {})
    summaries = [_summarise(system, queries, labels) for system in systems]
    indices = list(itertools.combinations(range(len(systems)), 2))
    flip_p = _flip_pairs(summaries, indices, labels)
    pairs = []
    for (first, second), p in zip(indices, flip_p, strict=True):
        seeds = [len(systems[index].seeds) for index in (first, second) if systems[index].random]
        pair = Pair(first, second, 0.0, min(seeds, default=None), flip_p=p)
        pairs.append(_estimate(pair, summaries[first], summaries[second], labels, len(indices)))
    return PairwiseTest(tuple(pairs), len(queries), int(labels.max()) + 1)


def _number_clusters(queries: Sequence[str], clusters: Mapping[str, int]) -> np.ndarray:
    """Return the clusters of queries as numbers from 0 without gaps, [Q]."""
    import numpy as np

    numbers: dict[object, int] = {}
    labels = np.empty(len(queries), np.int64)
    for position, query in enumerate(queries):
        cluster = clusters.get(query, query)
        labels[position] = numbers.setdefault(cluster, len(numbers))
    return labels


def _summarise(system: System, queries: Sequence[str], labels: np.ndarray) -> _Summary:
    import numpy as np

    values = np.empty((len(system.seeds), len(queries)))
    for row, seed in enumerate(system.seeds):
        values[row] = [seed[query] for query in queries]
    means = values.mean(axis=0)
    if labels.max() == 0:
        return _Summary(means, None)
    if not system.random:
        return _Summary(means, Arm())
    if len(values) < 2:
        return _Summary(means, None)
    return _Summary(means, measure_arm(values, labels))


def _estimate(pair: Pair, first: _Summary, second: _Summary, labels: np.ndarray, pairs: int) -> Pair:
    """Return the pair with its estimates."""
    differences = first.means - second.means
    difference = float(differences.mean())
    deviation = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    effect = difference / deviation if deviation > 0 else None
    pair = replace(pair, difference=difference, effect=effect)
    if first.arm is None or second.arm is None:
        return pair
    components = decompose(differences, (first.arm, second.arm), labels)
    return replace(
        pair,
        interval=_around(difference, half_width(components)),
        simultaneous=_around(difference, half_width(components, pairs)),
        p=p_value(difference, components, pairs),
        smallest_detectable=smallest_detectable(components, pairs),
        seeds_wanted=seeds_wanted(difference, components, pairs),
    )


def _turned(interval: Interval | None) -> Interval | None:
    return None if interval is None else (-interval[1], -interval[0])


def _around(middle: float, half: float) -> Interval:
    return middle - half, middle + half


def _flip_pairs(
    summaries: Sequence[_Summary], indices: Sequence[tuple[int, int]], labels: np.ndarray
) -> list[float] | list[None]:
    """Return the Holm-corrected p-value of each pair's sign-flip test, None where there are enough clusters."""
    import numpy as np

    if labels.max() + 1 >= FEW_CLUSTERS:
        return [None] * len(indices)
    sums = [np.bincount(labels, summaries[first].means - summaries[second].means) for first, second in indices]
    return holm([sign_flip_test(cluster_sums) for cluster_sums in sums])


def sign_flip_test(sums: np.ndarray) -> float:
    """
    Return the two-sided p-value of a randomisation test, from the sum of differences of each cluster, [C].

    Without a difference between two systems, the sign of each cluster is a coin's. All 2^C signs are tried where they
    are at most FLIPS, otherwise FLIPS random ones with a fixed seed, and the observed ones.
    M. Smucker, J. Allan and B. Carterette, A comparison of statistical significance tests for information retrieval
    evaluation, CIKM 2007.
    """
    import numpy as np

    observed = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()  # rounding must not break ties
    if len(sums) <= math.log2(FLIPS):
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(sums))))
        return float((np.abs(signs @ sums) >= observed).mean())
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, len(sums)))
    extreme = int((np.abs(signs @ sums) >= observed).sum())
    return (1 + extreme) / (1 + FLIPS)


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
