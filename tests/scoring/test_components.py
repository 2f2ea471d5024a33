"""The parts of a variance over seeds and questions equal those worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retrobench.scoring.components import Arm, Components, decompose, mean_variance, measure_arm

ALONE = np.arange(4)  # each of four questions is a cluster of its own
PAIRED = np.array([0, 0, 1, 1])


def test_the_variance_of_a_mean_by_hand() -> None:
    # Deviations -3, -1, 1, 3: sample variance 20/3 over 4 questions is 5/3.
    deviations = np.array([-3.0, -1.0, 1.0, 3.0])
    assert mean_variance(deviations, ALONE) == pytest.approx(5 / 3)
    # Sums over two clusters: -4 and 4. 2/1 * (16 + 16) / 4^2 = 4.
    assert mean_variance(deviations, PAIRED) == pytest.approx(4)


def test_the_variances_of_a_line_by_hand() -> None:
    # Means of the seeds: 2 and 4, variance 2. Their deviations from seed + question are -1, 1, 0, 0 and 1, -1, 0, 0.
    values = np.array([[0.0, 2.0, 2.0, 4.0], [4.0, 2.0, 4.0, 6.0]])
    arm = measure_arm(values, ALONE)
    assert (arm.seeds, arm.seed) == (2, 2.0)
    # Each seed: 4/3 * 2 / 4^2 = 1/6. Two seeds over one degree of freedom: 1/3.
    assert arm.interaction == pytest.approx(1 / 3)
    assert measure_arm(values, PAIRED).interaction == 0, "the deviations cancel within their cluster"


def test_the_interaction_is_counted_once() -> None:
    # Differences 0, 0, 4, 4: variance of the mean 4/3 * 16 / 16. With two seeds each, seed is 3/2 + 1/2 = 2.
    differences = np.array([0.0, 0.0, 4.0, 4.0])
    components = decompose(differences, (Arm(2, 3.0, 0.5), Arm(2, 1.0, 0.1)), ALONE)
    assert components.seed == pytest.approx(2)
    assert components.question == pytest.approx(4 / 3)
    assert components.interaction == pytest.approx(0.3)
    assert components.variance == pytest.approx(2 + 4 / 3 - 0.3)
    assert components.clusters == 4


@pytest.mark.parametrize(("seed", "question"), [(1.0, 3.0), (3.0, 1.0)])
def test_the_variance_is_never_below_one_of_its_parts(seed: float, question: float) -> None:
    components = Components((Arm(2, 2 * seed, 4.0), Arm()), question - 2.0, 10)
    assert (components.seed, components.question, components.interaction) == (seed, question, 2.0)
    assert components.variance == 3.0


def test_a_line_without_randomness_adds_nothing() -> None:
    components = Components((Arm(), Arm(4, 2.0, 0.0)), 0.0, 10)
    assert (components.seed, components.freedom) == (0.5, 3)
    both = Components((Arm(), Arm()), 0.25, 10)
    assert (both.variance, both.freedom) == (0.25, 9)


def test_degrees_of_freedom_by_hand() -> None:
    # Below five seeds: (1 + 3 + 2)^2 / (4^2 / 2 + 2^2 / 4), as the line with the fewest seeds has 2.
    few = Components((Arm(3, 3.0), Arm(4, 12.0)), 2.0, 5)
    assert few.freedom == pytest.approx(36 / 9)
    # From five on, by Welch: (1 + 3 + 2)^2 / (1/4 + 9/5 + 2^2 / 4).
    many = Components((Arm(5, 5.0), Arm(6, 18.0)), 2.0, 5)
    assert many.freedom == pytest.approx(36 / (1 / 4 + 9 / 5 + 1))
    assert Components((Arm(3), Arm(3)), 0.0, 5).freedom == 4, "no variance at all"


def test_other_numbers_of_seeds_leave_the_questions_alone() -> None:
    components = Components((Arm(2, 8.0, 4.0), Arm()), 1.0, 10)
    more = components.with_seeds(8)
    assert (components.seed, components.question) == (4, 3)
    assert (more.seed, more.interaction, more.question) == (1, 0.5, 1.5)
    assert more.arms[1].seeds == 0
