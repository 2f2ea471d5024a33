"""Term coverage by hand: ranks, shares, groups, texts without words, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retrobench.scoring import bootstrap_mean, measure_coverage, rank_words

# Five ids; 0 is no word. The first text's vector ranks the words 3, 1, 4, 2, the second's 1, 2, 3, 4.
SCORES = np.log(np.array([[16.0, 4.0, 1.0, 8.0, 3.0], [16.0, 9.0, 4.0, 2.0, 1.0]]))
IS_WORD = np.array([False, True, True, True, True])
BAGS = [np.array([1, 2, 3]), np.array([4])]


def test_ids_that_are_no_words_come_last_and_equal_scores_are_in_the_order_of_ids() -> None:
    ranked = rank_words(np.array([[5.0, 1.0, 1.0, 2.0, 1.0]]), IS_WORD)
    assert ranked.ranks.tolist() == [[4, 1, 2, 0, 3]]
    shares = np.exp([5.0, 1.0, 1.0, 2.0, 1.0])
    assert np.exp(ranked.log_shares[0]) == pytest.approx(shares / shares.sum())


def test_measures_of_two_texts() -> None:
    groups = {"odd": np.array([False, True, False, True, False]), "last": np.array([False] * 4 + [True])}
    values = measure_coverage(rank_words(SCORES, IS_WORD), BAGS, groups)
    assert values["R-coverage"].tolist() == pytest.approx([2 / 3, 0])
    assert values["coverage@16"].tolist() == [1, 1]
    assert values["mass"].tolist() == pytest.approx([13 / 32, 1 / 32])
    assert values["mean rank"].tolist() == pytest.approx([(2 + 4 + 1) / 3, 4])
    least = math.log(3)
    assert values["bow_kl"][0] == pytest.approx(-(math.log(4 / 32) + math.log(1 / 32) + math.log(8 / 32)) / 3 - least)
    assert values["odd"][0] == 1
    assert math.isnan(values["odd"][1])
    assert values["last"][1] == 0


def test_a_text_without_words_is_not_counted() -> None:
    bags = [np.array([1, 2, 3]), np.array([], np.int64)]
    values = measure_coverage(rank_words(SCORES, IS_WORD), bags, {})
    assert math.isnan(values["R-coverage"][1])
    assert bootstrap_mean(values["R-coverage"]) is None  # one value has no interval


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(0.3, 0.1, 1000)
    mean = bootstrap_mean(np.append(values, np.nan))
    assert mean is not None
    assert mean.mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(1000)
    assert (mean.low, mean.high) == pytest.approx((mean.mean - half, mean.mean + half), abs=half / 5)
    assert bootstrap_mean(values) == bootstrap_mean(values)
