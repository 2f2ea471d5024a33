"""A window of terms, with a weight for nearly every word, is held once: when it is written, joined and searched."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from retrobench.retrieval.nearest import VectorSet
from retrobench.retrieval.vectors import Terms, Vectors, Writer
from retrobench.retrieval.window_vectors import Embedded, WindowVectors

TEXTS, WORDS = 768, 16384
BATCH = 32
ENTRY = 8  # bytes: a column and a weight


def refuse(row: int, count: int) -> ValueError:
    return ValueError(f"{row} and {count}")


def weights_of(rows: np.ndarray) -> torch.Tensor:
    """Return weights [B, V] that depend on the row number alone. One in eight is 0."""
    draws = [np.random.default_rng(row) for row in rows]
    weights = np.stack([draw.random(WORDS, np.float32) for draw in draws])
    weights[weights < 1 / 8] = 0
    return torch.from_numpy(weights)


def add_all(window: WindowVectors) -> None:
    """Add the texts in batches, out of order as texts sorted by length are."""
    order = np.random.default_rng(0).permutation(TEXTS)
    for start in range(0, TEXTS, BATCH):
        rows = order[start : start + BATCH]
        window.add(rows, Embedded(None, weights_of(rows)))


def peak_of(work: Callable[[], object]) -> int:
    """Return the most bytes that `work` holds beyond those held before it. NumPy's arrays count."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    work()
    _, peak = tracemalloc.get_traced_memory()
    return peak - before


@pytest.mark.usefixtures("_traced")
def test_terms_of_every_word_are_held_once(tmp_path: Path) -> None:
    whole = TEXTS * WORDS * ENTRY  # 100 MB
    window = WindowVectors(0, TEXTS)
    with Writer(tmp_path, TEXTS, 0, WORDS, window=TEXTS) as writer:
        assert list(writer.windows(wait=False)) == [(0, TEXTS)]
        adding = peak_of(lambda: add_all(window))
        writing = peak_of(lambda: window.write(writer, refuse))
        joining = peak_of(lambda: writer.publish([str(row) for row in range(TEXTS)]))
    queries = VectorSet.of(Vectors.open(tmp_path))
    examining = peak_of(lambda: queries.census)
    spreading = peak_of(lambda: queries.written_terms(0, 256))
    assert 0.8 * whole < adding < 1.2 * whole
    assert writing < 0.05 * whole
    assert joining < 0.05 * whole
    assert examining < 32e6
    assert spreading < 1.2 * 256 * WORDS * 4


@pytest.fixture
def _traced() -> object:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_terms_are_written_in_the_order_of_rows(tmp_path: Path) -> None:
    window = WindowVectors(0, TEXTS)
    add_all(window)
    with Writer(tmp_path, TEXTS, 0, WORDS, window=TEXTS) as writer:
        for _ in writer.windows():
            window.write(writer, refuse)
        writer.publish([str(row) for row in range(TEXTS)])
    rows = np.arange(100, 164)
    terms = Vectors.open(tmp_path).terms(100, 164)
    expected = weights_of(rows).numpy()
    row_of_entry, columns = np.nonzero(expected)
    np.testing.assert_array_equal(np.diff(terms.indptr), (expected != 0).sum(1))
    np.testing.assert_array_equal(terms.indices, columns)
    np.testing.assert_array_equal(terms.values, expected[row_of_entry, columns])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_its_row(value: float, tmp_path: Path) -> None:
    weights = torch.ones(3, 5)
    weights[2, 3] = value
    window = WindowVectors(40, 6)
    window.add(np.array([5, 0, 4]), Embedded(None, weights))
    window.add(np.array([1, 3, 2]), Embedded(None, torch.ones(3, 5)))
    with Writer(tmp_path, 46, 0, 5, window=6) as writer, pytest.raises(ValueError, match="44 and 1"):
        window.write(writer, refuse)


def test_rows_written_out_are_the_sums_of_their_entries() -> None:
    indptr = np.array([0, 0, 3, 4, 4])
    terms = Terms(indptr, np.array([2, 0, 2, 1], np.int32), np.array([1, 2, 3, 4], np.float32))
    vectors = VectorSet(None, terms, 3)
    np.testing.assert_array_equal(vectors.written_terms(1, 4), [[2, 0, 4], [0, 4, 0], [0, 0, 0]])


def test_a_census_in_blocks_is_that_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two entries: rows of more entries stand alone, and rows without any lie between."""
    monkeypatch.setattr("retrobench.retrieval.nearest.vector_set._ENTRIES", 2)
    indptr = np.array([0, 0, 3, 4, 4, 5, 6, 6])
    values = np.array([1, 2, 2, -7, 0.5, 1], np.float32)
    vectors = VectorSet(None, Terms(indptr, np.zeros(6, np.int32), values), 3)
    assert vectors.census.heaviest == 7
    assert vectors.census.entries == 3
    assert vectors.slice(0, 2).census.heaviest == 3
