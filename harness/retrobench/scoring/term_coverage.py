"""
Term coverage: how many of a text's words its vector names, once the vector is projected to the vocabulary.

"Drop your Decoder" (arXiv 2401.11248) explains better retrievers by it. The paper's cutoff, corpus and code are not
published, so the definitions here are retrobench's.

* rank_words           the rank of every word for each text, and its share
* measure_coverage     the measures of each text
* bootstrap_mean       the mean over texts, with its interval
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["CUTOFFS", "Mean", "RankedWords", "bootstrap_mean", "measure_coverage", "rank_words"]

CUTOFFS = (16, 32, 64, 128, 256, 512)  # words, of coverage@N
RESAMPLES = 2000
CONFIDENCE = 0.95


class RankedWords(NamedTuple):
    """The words of a vocabulary for each of n texts, best first."""

    ranks: np.ndarray  # [n, V], 0 is the best
    log_shares: np.ndarray  # [n, V], logarithms of the softmax over all ids


@dataclass(frozen=True)
class Mean:
    """A mean over texts with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def rank_words(scores: np.ndarray, is_word: np.ndarray) -> RankedWords:
    """Rank the ids of scores [n, V], best first and equal scores by id; ids that `is_word` [V] excludes come last."""
    from scipy import special

    allowed = np.where(is_word, scores, -np.inf)
    order = np.argsort(-allowed, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None], axis=1)
    return RankedWords(ranks, special.log_softmax(scores.astype(np.float64), axis=1))


def measure_coverage(
    ranked: RankedWords, bags: Sequence[np.ndarray], groups: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return each measure of n texts, [n], from their ranked words and their distinct words `bags`; NaN without words.

    R-coverage   the share of a text's R words among the R best
    coverage@N   the share of a text's words among the N best, at most N / R
    mass         the sum of their shares of the softmax
    mean rank    their mean rank, from 1
    bow_kl       the bag-of-words loss less its least value, ln R
    GROUP        the R-coverage of the words of a group, a mask [V]; NaN for a text without such words
    """
    names = ["R-coverage", *(f"coverage@{cutoff}" for cutoff in CUTOFFS), "mass", "mean rank", "bow_kl", *groups]
    values = {name: np.full(len(bags), np.nan) for name in names}
    for row, bag in enumerate(bags):
        if not len(bag):
            continue
        ranks = ranked.ranks[row, bag]
        log_shares = ranked.log_shares[row, bag]
        is_covered = ranks < len(bag)
        values["R-coverage"][row] = is_covered.mean()
        for cutoff in CUTOFFS:
            values[f"coverage@{cutoff}"][row] = (ranks < cutoff).mean()
        values["mass"][row] = np.exp(log_shares).sum()
        values["mean rank"][row] = ranks.mean() + 1
        values["bow_kl"][row] = -log_shares.mean() - np.log(len(bag))
        for name, mask in groups.items():
            in_group = mask[bag]
            if in_group.any():
                values[name][row] = is_covered[in_group].mean()
    return values


def bootstrap_mean(values: np.ndarray) -> Mean | None:
    """Return the mean of values [n], without NaN, and its percentile interval; None for fewer than two values."""
    from scipy import stats

    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return None
    interval = stats.bootstrap(
        (finite,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Mean(float(finite.mean()), float(interval.low), float(interval.high))
