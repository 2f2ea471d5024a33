"""Exact search by the torch engine on the device, beside the processor's engine: every row and every bit of a score."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from retrobench.bench.acceptance.check import Check
from retrobench.bench.frame import require
from retrobench.bench.setting import Setting
from retrobench.bench.texts import unit
from retrobench.retrieval import NumbaEngine, Plan, Terms, TorchEngine, VectorSet

__all__ = ["checks"]

DOCUMENTS = 20_000
QUERIES = 64
WIDTH = 64
WORDS = 4096
ENTRIES = 32  # of a document
DEPTHS = (10, 1000)


def checks(setting: Setting) -> Iterator[Check]:
    """Yield a check for each kind of vectors."""
    dense = unit(DOCUMENTS, WIDTH, 0)
    dense[DOCUMENTS // 2 :] = dense[: DOCUMENTS // 2]  # every score stands twice, so that ties decide
    queries = VectorSet(unit(QUERIES, WIDTH, 1))
    halved = VectorSet(dense.astype(np.float16), stored="float16")
    terms = _draw_terms(DOCUMENTS, ENTRIES, 2)
    query_terms = _draw_terms(QUERIES, WORDS // 4, 3)
    yield Check("dense, 32 bits", partial(_compare, VectorSet(dense), queries, setting))
    yield Check("dense, 16 bits", partial(_compare, halved, queries, setting))
    documents = VectorSet(None, terms, WORDS)
    yield Check("terms", partial(_compare, documents, VectorSet(None, query_terms, WORDS), setting))
    documents = VectorSet(dense, terms, WORDS)
    both = VectorSet(queries.dense, query_terms, WORDS)
    yield Check("dense and terms", partial(_compare, documents, both, setting))


def _draw_terms(rows: int, entries: int, seed: int) -> Terms:
    """Draw sparse rows of equally many entries."""
    random = np.random.default_rng(seed)
    columns = np.empty((rows, entries), np.int32)
    for row in range(rows):
        columns[row] = np.sort(random.choice(WORDS, entries, replace=False))
    weights = random.random(rows * entries, np.float32)
    return Terms(np.arange(rows + 1) * entries, columns.reshape(-1), weights)


def _compare(documents: VectorSet, queries: VectorSet, setting: Setting) -> str:
    tie_ranks = np.random.default_rng(4).permutation(DOCUMENTS).astype(np.int32)
    device = TorchEngine(documents, tie_ranks, 1.0, Plan(device=setting.device))
    processor = NumbaEngine(documents, tie_ranks, 1.0, Plan())
    for depth in DEPTHS:
        ours = device.search(queries, depth)
        expected = processor.search(queries, depth)
        facts = {
            f"rows of the top {depth}": np.array_equal(ours.rows, expected.rows),
            f"scores of the top {depth}": np.array_equal(ours.scores, expected.scores),
        }
        require(facts)
    size = f"{QUERIES} queries in {DOCUMENTS:,} documents"
    return f"{size}: rows and scores of the top {' and '.join(map(str, DEPTHS))} are equal bit for bit"
