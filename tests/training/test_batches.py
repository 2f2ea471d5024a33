"""The order of batches: epochs, buckets of equal lengths, and a seed for every forward."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from retrobench.training.batches import Batches, seeded


def rows_of_batches(batches: Batches, numbers: Sequence[int]) -> list[list[int]]:
    """Return the rows of numbered batches."""
    return [batches.rows(number).tolist() for number in numbers]


@pytest.mark.parametrize("bucket", [0, 2])
def test_every_epoch_is_a_permutation(bucket: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 30)
    batches = Batches(lengths, 4, bucket, seed=1)
    epochs = []
    for first in (0, 7, 14):
        rows = np.concatenate(rows_of_batches(batches, range(first, first + 7))).tolist()
        assert len(rows) == 28  # 30 rows in batches of 4: two wait for another epoch
        assert len(set(rows)) == 28
        assert set(rows) <= set(range(30))
        epochs.append(rows)
    assert epochs[0] != epochs[1]
    assert set().union(*epochs) == set(range(30))


def padding(batches: Batches, count: int) -> int:
    """Return the padding of the first `count` batches, in tokens."""
    tokens = 0
    for number in range(count):
        lengths = batches.lengths[batches.rows(number)]
        tokens += (lengths.max() - lengths).sum()
    return int(tokens)


def test_buckets_waste_less_and_depend_on_seed_and_number_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 800)
    plain = Batches(lengths, 8, 0, seed=1)
    bucketed = Batches(lengths, 8, 25, seed=1)
    assert padding(bucketed, 100) < 0.15 * padding(plain, 100)

    rows = rows_of_batches(bucketed, (3, 250, 7))
    same_seed = Batches(lengths, 8, 25, seed=1)
    assert rows_of_batches(same_seed, (3, 250, 7)) == rows
    another_seed = Batches(lengths, 8, 25, seed=2)
    assert rows_of_batches(another_seed, (3, 250, 7))[0] != rows[0]

    mean_lengths = [lengths[bucketed.rows(number)].mean() for number in range(25)]
    assert mean_lengths != sorted(mean_lengths), "short batches come first only by chance"


def test_fewer_rows_than_a_batch_make_a_batch_of_all() -> None:
    batches = Batches(np.asarray([5, 1, 3]), 8, 32, seed=0)
    for number in range(3):
        assert sorted(batches.rows(number).tolist()) == [0, 1, 2]


def test_every_forward_has_a_seed_of_its_own() -> None:
    numbers = list(product((0, 1), range(50), (0, 1), (0, 1)))  # seed, step, shard, round
    seeds = {seeded(*four_numbers) for four_numbers in numbers}
    assert len(numbers) == 400
    assert len(seeds) == 400
    assert max(seeds) < 2**63
