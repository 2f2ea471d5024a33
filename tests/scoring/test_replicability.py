"""Agreement with the authors' run equals values worked out by hand, on ten topics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from retrobench.data import Exclusions
from retrobench.scoring.replicability import (
    Rankings,
    compare_rankings,
    delta_relative_improvement,
    effect_ratio,
    kendall_tau_union,
    rank_biased_overlap,
    root_mean_square_error,
)

TOPICS = [f"t{number}" for number in range(10)]


def by_topic(*values: float) -> dict[str, float]:
    return dict(zip(TOPICS, values, strict=True))


# Ours differs by 0.1 on eight topics and by 0.3 on two: the mean square is (8 * 0.01 + 2 * 0.09) / 10 = 0.026.
THEIRS = by_topic(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.1)  # mean 0.5
OURS = by_topic(0.6, 0.4, 0.6, 0.4, 0.6, 0.4, 0.6, 0.4, 0.6, 0.4)  # mean 0.5
THEIR_BASELINE = by_topic(*[0.4] * 10)
OUR_BASELINE = by_topic(*[0.25, 0.65] * 5)  # mean 0.45


def test_the_error_by_topic() -> None:
    assert root_mean_square_error(THEIRS, OURS) == pytest.approx(math.sqrt(0.026), abs=1e-12)
    assert root_mean_square_error(THEIRS, THEIRS) == 0.0


def test_the_effect_of_a_pair() -> None:
    """Theirs gains 0.1 of 0.4, a quarter; ours 0.05 of 0.45, a ninth."""
    assert effect_ratio(THEIRS, THEIR_BASELINE, OURS, OUR_BASELINE) == pytest.approx(0.5, abs=1e-12)
    improvement = delta_relative_improvement(THEIRS, THEIR_BASELINE, OURS, OUR_BASELINE)
    assert improvement == pytest.approx(1 / 4 - 1 / 9, abs=1e-12)


def test_an_effect_without_a_reference_is_missing() -> None:
    nothing = by_topic(*[0.0] * 10)
    assert effect_ratio(THEIRS, THEIRS, OURS, OUR_BASELINE) is None
    assert delta_relative_improvement(THEIRS, nothing, OURS, OUR_BASELINE) is None


@pytest.mark.parametrize(
    ("theirs", "ours", "tau"),
    [
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "d c b a", -1.0),
        ("a b c d", "b a d c", 1 / 3),  # 4 of 6 pairs in order
        ("d1 d2 d3", "d1 d2 d4", 1.0),  # a document of one run alone
        ("d1 d2 d3", "d2 d5 d3", 1 / 3),
        ("z b a", "z b a", 1.0),
        ("c a b", "a c b", 1 / 3),  # names of documents do not count
        ("a b c d", "b a", -1.0),  # the longer one is cut
        ("a", "a", None),
        ("a b", "", None),
    ],
)
def test_tau_over_the_union(theirs: str, ours: str, tau: float | None) -> None:
    computed = kendall_tau_union(theirs.split(), ours.split())
    assert computed == (tau if tau is None else pytest.approx(tau, abs=1e-12))


@pytest.mark.parametrize(
    ("theirs", "ours", "overlap"),
    [
        ("a b", "a b", 1.0),
        ("a b", "c d", 0.0),
        # At p 0.8: 0.2 * (0 + 0.8 * 1) and the tail 0.64 * 1.
        ("a b", "b a", 0.8),
        # 0.2 * (1 + 0.8 / 2) + 0.64 / 2
        ("a b", "a c", 0.6),
        # The shorter ends at rank 1: 0.2 * (1 + 0.8 * 1/2), the shared 1 * (2 - 1) / (1 * 2) at rank 2, the tail 0.64.
        ("a", "a b", 0.2 * (1 + 0.8 * 0.5 + 0.8 * 0.5) + 0.64),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_rank_biased_overlap(theirs: str, ours: str, overlap: float) -> None:
    assert rank_biased_overlap(theirs.split(), ours.split()) == pytest.approx(overlap, abs=1e-12)
    assert rank_biased_overlap(ours.split(), theirs.split()) == pytest.approx(overlap, abs=1e-12)


def test_overlap_of_a_longer_ranking() -> None:
    """Overlaps by depth 0 2 2 3 4, by hand; p 0.9."""
    terms = 0 / 1 * 0.9 + 2 / 2 * 0.9**2 + 2 / 3 * 0.9**3 + 3 / 4 * 0.9**4 + 4 / 5 * 0.9**5
    expected = 0.1 / 0.9 * terms + 4 / 5 * 0.9**5
    assert rank_biased_overlap("abcde", "bafcd", 0.9) == pytest.approx(expected, abs=1e-12)


def test_ten_topics_are_averaged() -> None:
    """Nine topics are equal, one is reversed; another query is in one run alone."""
    theirs = {topic: ["a", "b"] for topic in TOPICS}
    ours = {**theirs, "t9": ["b", "a"], "t10": ["a"]}
    agreement = compare_rankings(theirs, ours)
    assert agreement.tau == pytest.approx(0.8, abs=1e-12)
    assert agreement.overlap == pytest.approx(0.98, abs=1e-12)
    assert (agreement.queries, agreement.left_out) == (10, 1)


def test_rankings_of_a_file_are_by_score(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("q1 Q0 low 1 0.1 x\nq1 Q0 high 2 0.9 x\nq1 Q0 q1 3 0.5 x\nq2 Q0 only 1 1 x\n")
    assert dict(Rankings.read(file)) == {"q1": ["high", "q1", "low"], "q2": ["only"]}
    assert Rankings.read(file, Exclusions(own=True))["q1"] == ["high", "low"]
