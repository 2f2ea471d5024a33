"""Hard negatives from rankings, of all queries at once and in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrobench.stages.mine import candidates, exclude


def test_mined_negatives_are_no_positives() -> None:
    """`skip` counts ranks after a query's positives have been removed."""
    ranked = np.asarray([[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]])
    positives = [np.asarray([4, 2]), np.asarray([7])]
    two_best = exclude(ranked, positives, skip=0, depth=2)
    assert two_best.tolist() == [[3, 1], [0, 1]]
    after_the_best = exclude(ranked, positives, skip=1, depth=4)
    assert after_the_best.tolist() == [[1, 0, -1, -1], [1, 2, 3, 4]]


class RandomExamples:
    """50 examples of 30 queries in any order, with one to three positives each."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.query_rows = draw.integers(0, 30, 50)
        self.relevant = []
        for _ in range(50):
            count = draw.integers(1, 4)
            self.relevant.append(draw.permutation(20)[:count])

    def __len__(self) -> int:
        return len(self.query_rows)


@pytest.mark.parametrize("edges", [[30], [7, 7, 20, 30], list(range(1, 31))])
def test_blocks_of_queries_give_equal_negatives(edges: list[int]) -> None:
    draw = np.random.default_rng(0)
    rankings = np.stack([draw.permutation(20)[:12] for _ in range(30)])
    examples: Any = RandomExamples(draw)
    expected = exclude(rankings[examples.query_rows], examples.relevant, skip=1, depth=6)
    blocks = np.split(rankings, edges)
    negatives = candidates(blocks, examples, skip=1, depth=6)
    assert negatives.dtype == np.int32
    assert np.array_equal(negatives, expected)
