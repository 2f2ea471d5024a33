"""Search on the device gives the CPU engine's documents and scores, to the last bit."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from exact_search import assert_same, draw_tie_ranks, search_all

from retrobench.retrieval.nearest import Plan, VectorSet, choose_engine
from retrobench.retrieval.vectors import Terms

QUERIES, DOCUMENTS, WIDTH, WORDS, DEPTH = 17, 700, 24, 60, 30
SCALE = 0.5


def draw_terms(draw: np.random.Generator, rows: int) -> Terms:
    """Draw sparse rows of up to eight words; a row may be empty."""
    counts = draw.integers(0, 9, rows)
    indices = [np.sort(draw.permutation(WORDS)[:count]) for count in counts]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    values = draw.standard_normal(indptr[-1]).astype(np.float32)
    return Terms(indptr, np.concatenate(indices).astype(np.int32), values)


def draw_side(draw: np.random.Generator, rows: int, kind: str, stored: str) -> VectorSet:
    """Draw vectors with many equal scores: numbers are whole, and half the rows are repeated."""
    dense = None
    terms = None
    words = 0
    if "dense" in kind:
        dense = draw.integers(-2, 3, (rows, WIDTH)).astype(np.float32)
        dense[rows // 2 :] = dense[: rows - rows // 2]
        dense[:9] += draw.standard_normal((9, WIDTH)).astype(np.float32)
        if stored == "float16":
            dense = dense.astype(np.float16)
    if "terms" in kind:
        terms = draw_terms(draw, rows)
        words = WORDS
    return VectorSet(dense, terms=terms, words=words, stored=stored)


def draw_sides(kind: str, stored: str) -> tuple[VectorSet, VectorSet, np.ndarray]:
    draw = np.random.default_rng(3)
    queries = draw_side(draw, QUERIES, kind, "float32")
    documents = draw_side(draw, DOCUMENTS, kind, stored)
    return queries, documents, draw_tie_ranks(draw, DOCUMENTS)


@pytest.mark.parametrize("free", [2**36, 0], ids=["resident", "block by block"])
@pytest.mark.parametrize("first", ["fp32", "rounded"])
@pytest.mark.parametrize(
    ("kind", "stored"), [("dense", "float32"), ("dense", "float16"), ("terms", "float32"), ("dense terms", "float32")]
)
def test_hits_are_those_of_the_cpu(
    kind: str, stored: str, first: Literal["fp32", "rounded"], free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**37))
    queries, documents, tie_ranks = draw_sides(kind, stored)
    plan = Plan(first=first, queries=7, documents=150)
    assert type(choose_engine(documents, tie_ranks)).__name__ == "TorchEngine"
    on_device = search_all(queries, documents, DEPTH, tie_ranks, SCALE, plan)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert type(choose_engine(documents, tie_ranks)).__name__ == "NumbaEngine"
    on_cpu = search_all(queries, documents, DEPTH, tie_ranks, SCALE, plan)
    assert on_device.rows.shape == (QUERIES, DEPTH)
    assert_same(on_device, on_cpu)
