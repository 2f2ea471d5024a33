"""Simulated intervals cover the true difference about as often as they say."""

from __future__ import annotations

import pytest

from retrobench.scoring.coverage import Setting, settings, simulate

REPETITIONS = 400  # of 21 pairs; a share of tables has a standard error of 0.011


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_is_nominal(seeds: int, clustered: bool) -> None:
    coverage = simulate(Setting(seeds, "reciprocal ranks", clustered, 1), REPETITIONS)
    assert 0.93 <= coverage.pair <= 0.98
    assert 0.92 <= coverage.simultaneous <= 0.99


def test_three_seeds_that_decide_everything_cover_a_little_less_together() -> None:
    coverage = simulate(Setting(3, "normal", False, 10), REPETITIONS)
    assert 0.94 <= coverage.pair <= 0.98
    assert 0.89 <= coverage.simultaneous <= 0.96


def test_settings_cross_seeds_values_clusters_and_ratios() -> None:
    assert len(set(settings())) == 3 * 2 * 2 * 3
    assert simulate(Setting(3, "normal", True, 1), 5) == simulate(Setting(3, "normal", True, 1), 5)
