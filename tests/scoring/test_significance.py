"""Systems are compared over seeds and clusters, and no letter stands on fewer than three seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from retrobench.scoring.significance import Pair, System, compare_systems, holm, sign_flip_test

BASE = {f"q{i}": 0.25 * (i % 3) for i in range(200)}


def raised(by: float, spread: float = 0.0) -> dict[str, float]:
    return {query: value + by + spread * (-1) ** i for i, (query, value) in enumerate(BASE.items())}


def only(*systems: System) -> Pair:
    (pair,) = compare_systems(systems).pairs
    return pair


def test_without_spread_over_seeds_it_is_the_paired_t_test() -> None:
    first = {"1": 0.5, "2": 0.5, "3": 1.0, "4": 1.0}
    second = {"4": 1.0, "3": 0.6, "2": 0.5, "1": 0.0}  # another order of the same queries
    pair = only(System([first] * 3), System([second] * 3))
    assert pair.p == pytest.approx(ttest_rel([0.5, 0.5, 1.0, 1.0], [0.0, 0.5, 0.6, 1.0]).pvalue)
    assert pair.effect == pytest.approx(0.225 / np.std([0.5, 0.0, 0.4, 0.0], ddof=1))


def test_without_spread_over_questions_it_is_welchs_test() -> None:
    first = [raised(by) for by in (0.01, 0.03, 0.02, 0.04, 0.05)]
    second = [raised(by) for by in (0.00, 0.01, 0.00, 0.01, 0.02)]
    expected = ttest_ind([0.01, 0.03, 0.02, 0.04, 0.05], [0.00, 0.01, 0.00, 0.01, 0.02], equal_var=False)
    pair = only(System(first), System(second))
    assert pair.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert pair.interval == pytest.approx((interval.low, interval.high))
    assert pair.simultaneous == pytest.approx(pair.interval), "there is one pair"


@pytest.mark.parametrize(("seeds", "significant"), [(1, False), (2, False), (3, True)])
def test_below_three_seeds_nothing_is_significant(seeds: int, significant: bool) -> None:
    high = System([raised(0.2, 0.01)] * seeds)
    pair = only(high, System([BASE] * 3))
    assert pair.seeds == seeds
    assert pair.significant is significant
    assert (pair.interval is None) == (seeds == 1)
    assert pair.winner() == (0 if significant else None)
    assert only(System([BASE] * 3), high).winner() == (1 if significant else None)


def test_a_line_without_randomness_needs_no_seeds() -> None:
    fixed = System([raised(0.2, 0.01)], random=False)
    assert only(fixed, System([BASE] * 3)).winner() == 0
    assert not only(fixed, System([BASE] * 2)).significant
    pair = only(fixed, System([BASE], random=False))
    assert (pair.seeds, pair.winner(), pair.seeds_wanted) == (None, 0, None)


def test_clusters_widen_the_interval() -> None:
    # The first half of the questions gains 0.1, the other loses 0.08. All of a cluster are of one half.
    changed = {query: value + (0.1 if i < 100 else -0.08) for i, (query, value) in enumerate(BASE.items())}
    systems = [System([changed] * 3), System([BASE] * 3)]
    clusters = {query: i // 10 for i, query in enumerate(BASE)}
    alone = compare_systems(systems)
    test = compare_systems(systems, clusters)
    assert (alone.clusters, test.clusters, test.queries) == (200, 20, 200)
    widths = []
    for interval in (alone.pairs[0].interval, test.pairs[0].interval):
        assert interval is not None
        widths.append(interval[1] - interval[0])
    assert widths[1] > 3 * widths[0]
    assert alone.pairs[0].flip_p is None, "200 clusters are enough for t"
    assert test.pairs[0].flip_p is not None
    assert compare_systems(systems, {"q0": 1, "q1": 1}).clusters == 199, "a query without a cluster is its own"
    assert compare_systems(systems, dict.fromkeys(BASE, 0)).pairs[0].interval is None, "one cluster shows no variance"


def test_few_clusters_need_the_sign_flip_test_too() -> None:
    # Five clusters have 32 signs, so p is at least 1/16, and t alone would call the difference significant.
    five = {f"q{i}": 0.1 for i in range(5)}
    better = {query: value + 0.1 + 0.001 * i for i, (query, value) in enumerate(five.items())}
    pair = only(System([better] * 3), System([five] * 3))
    assert pair.p is not None and pair.p < 1e-4
    assert pair.flip_p == pytest.approx(1 / 16)
    assert not pair.significant


def test_flips_are_enumerated_and_drawn() -> None:
    sums = np.array([3.0, -1.0, 4.0, 1.0, 5.0, -9.0, 2.0, 6.0])
    extreme = 0
    for signs in itertools.product((-1, 1), repeat=8):
        extreme += abs(float(signs @ sums)) >= 11
    assert sign_flip_test(sums) == extreme / 256
    # A value of 0 has no sign: 2^14 signs are too many to enumerate, and the drawn ones agree within 4 deviations.
    drawn = sign_flip_test(np.append(sums, np.zeros(6)))
    p = extreme / 256
    assert drawn == pytest.approx(p, abs=4 * (p * (1 - p) / 10_000) ** 0.5)
    assert drawn == sign_flip_test(np.append(sums, np.zeros(6))), "the seed is fixed"
    assert sign_flip_test(np.zeros(3)) == 1


def test_a_pair_can_be_turned() -> None:
    pair = only(System([raised(0.2, 0.01)] * 3), System([BASE] * 3))
    turned = pair.turned()
    assert (turned.first, turned.second, turned.difference) == (1, 0, -pair.difference)
    assert turned.interval is not None and pair.interval is not None
    assert turned.interval == (-pair.interval[1], -pair.interval[0])
    assert turned.effect == pytest.approx(-20, rel=0.01)
    assert turned.winner() == pair.winner() == 0
    assert turned.turned() == pair


def test_holm_by_hand() -> None:
    # 3 x .01 = .03; 2 x .03 = .06; 1 x .04 = .04 is raised to the .06 before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06], abs=1e-15)
    assert holm([0.5, 0.2, 0.9]) == pytest.approx([1.0, 0.6, 1.0], abs=1e-15)
    assert holm([]) == []
