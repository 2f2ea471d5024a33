"""Hard negatives from rankings, whole and a block of queries at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrobench.stages.mine import candidates, exclude


def test_mined_negatives_are_nobodys_answers() -> None:
    """A query's own positives go first, and only of the rest are some skipped."""
    ranked = np.asarray([[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]])
    positives = [np.asarray([4, 2]), np.asarray([7])]
    assert exclude(ranked, positives, skip=0, depth=2).tolist() == [[3, 1], [0, 1]]
    assert exclude(ranked, positives, skip=1, depth=4).tolist() == [[1, 0, -1, -1], [1, 2, 3, 4]]


def test_negatives_are_mined_a_block_of_queries_at_a_time() -> None:
    """Examples ask for queries in any order and more than once; blocks are as long as they come."""
    draw = np.random.default_rng(0)
    lists = np.stack([draw.permutation(20)[:12] for _ in range(30)])
    asked = draw.integers(0, 30, 50)
    positives = [draw.permutation(20)[: draw.integers(1, 4)] for _ in asked]

    class Asked:
        query_rows, relevant = asked, positives

        def __len__(self) -> int:
            return len(asked)

    examples: Any = Asked()
    for edges in ([30], [7, 7, 20, 30], list(range(1, 31))):
        found = candidates(np.split(lists, edges), examples, skip=1, depth=6)
        assert found.dtype == np.int32 and np.array_equal(found, exclude(lists[asked], positives, 1, 6))
