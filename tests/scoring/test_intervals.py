"""Intervals, power and wanted seeds equal those worked out by hand or by the distributions they come from."""

from __future__ import annotations

import math

import pytest
from scipy.stats import nct, t

from retrobench.scoring.components import Arm, Components
from retrobench.scoring.intervals import half_width, p_value, seeds_wanted, smallest_detectable

# Standard error 1/2, and one cluster more than degrees of freedom.
QUESTIONS_ONLY = Components((Arm(), Arm()), 0.25, 4)


def test_one_pair_by_hand() -> None:
    # t with 3 degrees of freedom is below 3.18245 with probability 0.975.
    assert half_width(QUESTIONS_ONLY) == pytest.approx(3.18245 / 2, abs=1e-5)
    # t = sqrt(3), where the distribution has the closed form 1/2 + (x / (1 + x^2) + arctan x) / pi, x = t / sqrt(3).
    assert p_value(math.sqrt(3) / 2, QUESTIONS_ONLY) == pytest.approx(0.5 - 1 / math.pi, abs=1e-12)


def test_all_pairs_together_by_sidak() -> None:
    alpha = 1 - 0.95 ** (1 / 3)
    assert half_width(QUESTIONS_ONLY, 3) == pytest.approx(t.ppf(1 - alpha / 2, 3) / 2)
    single = p_value(2.0, QUESTIONS_ONLY)
    assert p_value(2.0, QUESTIONS_ONLY, 3) == pytest.approx(1 - (1 - single) ** 3)
    assert p_value(half_width(QUESTIONS_ONLY, 3), QUESTIONS_ONLY, 3) == pytest.approx(0.05)


def test_without_variance_any_difference_is_certain() -> None:
    certain = Components((Arm(), Arm()), 0.0, 4)
    assert half_width(certain, 3) == smallest_detectable(certain, 3) == 0
    assert (p_value(0.0, certain, 3), p_value(0.1, certain, 3), p_value(0.0, QUESTIONS_ONLY, 3)) == (1, 0, 1)


def test_the_smallest_detectable_difference_has_power_of_four_fifths() -> None:
    components = Components((Arm(3, 0.03), Arm(3, 0.06)), 0.01, 48)
    error = math.sqrt(components.variance)
    detectable = smallest_detectable(components, 21)
    critical = half_width(components, 21) / error
    assert nct.sf(critical, components.freedom, detectable / error) == pytest.approx(0.8)
    assert detectable > half_width(components, 21)


def test_seeds_wanted_is_the_least_number() -> None:
    components = Components((Arm(3, 0.03), Arm(3, 0.06)), 1e-4, 48)
    wanted = seeds_wanted(0.1, components, 21)
    assert wanted is not None and wanted > 3
    assert half_width(components.with_seeds(wanted), 21) < 0.1 <= half_width(components.with_seeds(wanted - 1), 21)


def test_no_number_of_seeds_helps_where_the_questions_leave_it_open() -> None:
    components = Components((Arm(3, 0.03), Arm(3, 0.06)), 0.0025, 48)
    limit = half_width(Components((Arm(), Arm()), 0.0025, 48), 21)
    assert seeds_wanted(limit * 0.999, components, 21) is None
    assert seeds_wanted(limit * 1.01, components, 21) is not None
    assert seeds_wanted(0.0, components, 21) is None
    assert seeds_wanted(9.0, QUESTIONS_ONLY, 1) is None, "no line is random"
    assert seeds_wanted(9.0, components, 21) == 3, "never fewer than three"
