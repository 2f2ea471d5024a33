"""Exact search equals the sorted canonical scores: ties, duplicates, sizes, storage, engines, blocks, shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_search import assert_same, draw_tie_ranks, expected, in_row_order, ones, search_all

from retrobench.retrieval.nearest import Plan, UnsoundError, VectorSet, merge, search
from retrobench.retrieval.nearest.canonical import torch_sums
from retrobench.retrieval.nearest.kernels import LANES, TopK
from retrobench.retrieval.vectors import Terms
from retrobench.retrieval.vectors.layout import narrowed, widened
from retrobench.scoring.ranking import precedence

WORDS = 40
# All kinds of search. The last three run the GPU's code on the processor.
PLANS = {
    "default": Plan(),
    "32 bits": Plan(first="fp32"),
    "rounded": Plan(first="rounded"),
    "rounded, small blocks": Plan(queries=3, documents=7, first="rounded"),
    "32 bits, one by one": Plan(queries=1, documents=1, first="fp32"),
    "torch": Plan(device="cpu"),
    "torch, 32 bits": Plan(first="fp32", device="cpu"),
    "torch, small blocks": Plan(queries=4, documents=5, device="cpu"),
}


def draw_vectors(draw: np.random.Generator, kind: str, rows: int, width: int) -> np.ndarray:
    """Draw vectors [rows, width] float32 of a kind that is hard for search."""
    if kind == "whole":  # few values, so that most scores are equal
        return draw.integers(-1, 2, (rows, width)).astype(np.float32)
    vectors = draw.standard_normal((rows, width)).astype(np.float32)
    if kind == "collapsed":  # nearly one vector, which bfloat16 cannot tell apart
        return np.float32(10) + np.float32(1e-4) * vectors
    if kind == "scales":
        exponents = draw.integers(-18, 14, (rows, 1)).astype(np.float32)
        return vectors * np.float32(10) ** exponents
    if kind == "doubled":
        vectors[rows // 2 :] = vectors[: rows - rows // 2]
    return vectors


def draw_vector_set(draw: np.random.Generator, kind: str, rows: int, width: int) -> VectorSet:
    return VectorSet(draw_vectors(draw, kind, rows, width))


def vector_set(*vectors: list[float]) -> VectorSet:
    return VectorSet(np.asarray(vectors, np.float32))


def draw_terms(draw: np.random.Generator, rows: int, whole: bool) -> Terms:
    """Draw sparse rows of up to eight words."""
    counts = draw.integers(0, 9, rows)
    indices = [np.zeros(0, np.int64)]
    for count in counts:
        words = draw.permutation(WORDS)
        indices.append(words[:count])
    total = int(counts.sum())
    values = draw.standard_normal(total)
    if whole:
        values = draw.integers(-2, 3, total).astype(np.float64)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return Terms(indptr, np.concatenate(indices).astype(np.int32), values.astype(np.float32))


def fold(products: np.ndarray) -> np.ndarray:
    """Return the canonical sums [...] of products [..., n], as `canonical` defines them, number by number."""
    lanes = np.zeros((*products.shape[:-1], LANES))
    for position in range(products.shape[-1]):
        lanes[..., position % LANES] += products[..., position]
    size = LANES
    while size > 1:
        size //= 2
        lanes = lanes[..., :size] + lanes[..., size : 2 * size]
    return lanes[..., 0]


def oracle(queries: VectorSet, documents: VectorSet, scale: float) -> np.ndarray:
    """Return all canonical scores, [Q, N] float32."""
    query_count, document_count = len(queries), len(documents)
    total = np.zeros((query_count, document_count))
    if documents.width:
        query_vectors = queries.block(0, query_count).astype(np.float64)
        document_vectors = documents.block(0, document_count).astype(np.float64)
        total += fold(query_vectors[:, None] * document_vectors[None])
    if documents.terms:
        query_terms = queries.written_terms(0, query_count).astype(np.float64)
        indptr, indices, values = documents.terms
        for row in range(document_count):
            entries = slice(indptr[row], indptr[row + 1])
            words = indices[entries]
            weights = values[entries].astype(np.float64)
            products = query_terms[:, words] * weights
            total[:, row] += scale * fold(products)
    return total.astype(np.float32) + np.float32(0)


# Queries, documents, width, depth.
SIZES = [
    (1, 1, 1, 1),
    (1, 60, 33, 5),
    (5, 1, 3, 4),
    (6, 30, 64, 30),
    (6, 30, 5, 1000),
    (17, 700, 20, 10),
    (3, 90, 2, 89),
]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("kind", ["whole", "normal", "collapsed", "scales", "doubled"])
def test_dense_is_every_score_sorted(kind: str, plan: Plan) -> None:
    draw = np.random.default_rng(3)
    for query_count, document_count, width, depth in SIZES:
        queries = draw_vector_set(draw, kind, query_count, width)
        documents = draw_vector_set(draw, kind, document_count, width)
        tie_ranks = draw_tie_ranks(draw, document_count)
        best = search_all(queries, documents, depth, tie_ranks, 1.0, plan)
        scores = oracle(queries, documents, 1.0)
        assert_same(best, expected(scores, tie_ranks, depth))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_terms_are_every_score_sorted(both: bool, whole: bool, plan: Plan) -> None:
    draw = np.random.default_rng(4)
    kind = "normal"
    if whole:
        kind = "whole"

    def draw_set(rows: int, width: int) -> VectorSet:
        vectors = None
        if both:
            vectors = draw_vectors(draw, kind, rows, width)
        return VectorSet(vectors, draw_terms(draw, rows, whole), WORDS)

    for query_count, document_count, width, depth in SIZES:
        queries = draw_set(query_count, width)
        documents = draw_set(document_count, width)
        tie_ranks = draw_tie_ranks(draw, document_count)
        best = search_all(queries, documents, depth, tie_ranks, 0.3, plan)
        scores = oracle(queries, documents, 0.3)
        assert_same(best, expected(scores, tie_ranks, depth))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_vectors_stored_in_16_bits_are_scored_as_their_32_bit_numbers(stored: str, plan: Plan) -> None:
    draw = np.random.default_rng(5)
    vectors = draw_vectors(draw, "normal", 300, 40)
    queries = draw_vector_set(draw, "normal", 5, 40)
    bits = narrowed(vectors, stored)
    tie_ranks = draw_tie_ranks(draw, 300)
    wide = VectorSet(widened(bits, stored))
    narrow = VectorSet(bits, stored=stored)
    scores = oracle(queries, wide, 1.0)
    best = expected(scores, tie_ranks, 20)
    narrow_best = search_all(queries, narrow, 20, tie_ranks, 1.0, plan)
    wide_best = search_all(queries, wide, 20, tie_ranks)
    assert_same(narrow_best, best)
    assert_same(wide_best, best)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_more_equal_scores_than_room(plan: Plan) -> None:
    """3,000 candidates that the first pass cannot tell apart are settled as they come: there is room for 1,536."""
    if plan.documents == 1:
        plan = Plan(first="fp32", documents=50)
    draw = np.random.default_rng(6)
    tie_ranks = draw_tie_ranks(draw, 3000)
    equal = ones(3000, 8)
    collapsed = draw_vector_set(draw, "collapsed", 3000, 8)
    for documents in (equal, collapsed):
        queries = draw_vector_set(draw, "collapsed", 4, 8)
        best = search_all(queries, documents, 9, tie_ranks, 1.0, plan)
        scores = oracle(queries, documents, 1.0)
        assert_same(best, expected(scores, tie_ranks, 9))


def test_the_worst_order_of_documents() -> None:
    """Each document is better than all earlier ones, so each reaches the threshold."""
    column = np.linspace(-1, 1, 20_000, dtype=np.float32)
    documents = VectorSet(np.repeat(column[:, None], 4, axis=1))
    queries = ones(2, 4)
    tie_ranks = in_row_order(20_000)
    last_thirty = list(range(19_999, 19_969, -1))
    for plan in (Plan(first="rounded"), Plan(first="fp32"), Plan(device="cpu", documents=512)):
        best = search_all(queries, documents, 30, tie_ranks, 1.0, plan)
        assert best.rows.tolist() == [last_thirty, last_thirty]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    draw = np.random.default_rng(7)
    queries = draw_vector_set(draw, "normal", 100, 48)
    documents = draw_vector_set(draw, "doubled", 9000, 48)
    ids = [f"d{row}" for row in range(9000)]
    tie_ranks = precedence(ids)
    usual_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        best = search_all(queries, documents, 50, tie_ranks, 1.0, Plan(first="rounded"))
    finally:
        torch.set_num_threads(usual_threads)
    scores = oracle(queries, documents, 1.0)
    assert_same(best, expected(scores, tie_ranks, 50))


@pytest.mark.parametrize("width", [1, 31, 32, 33, 100])
def test_torch_sums_as_the_compiled_loop_does(width: int) -> None:
    draw = np.random.default_rng(8)
    left = draw_vectors(draw, "scales", 50, width)
    right = draw_vectors(draw, "scales", 50, width)
    sums = torch_sums(torch.from_numpy(left), torch.from_numpy(right))
    products = left.astype(np.float64) * right.astype(np.float64)
    assert np.array_equal(sums.numpy(), fold(products))


def test_no_query_and_no_document() -> None:
    vectors = ones(3, 4)
    empty = ones(0, 4)
    for plan in (Plan(), Plan(device="cpu")):
        no_query = search(empty, vectors, 5, in_row_order(3), 1.0, plan)
        no_document = search(vectors, empty, 5, in_row_order(0), 1.0, plan)
        assert list(no_query) == []
        assert list(no_document) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e15])
def test_an_unsound_vector_is_named_by_its_row(value: float) -> None:
    vectors = np.ones((80, 4), np.float32)
    vectors[61, 2] = value
    by_dense = VectorSet(vectors)
    assert_unsound(by_dense, "dense")
    values = vectors[:, 2].copy()
    terms = Terms(np.arange(81), np.zeros(80, np.int32), values)
    by_terms = VectorSet(None, terms, 4)
    assert_unsound(by_terms, "terms")


def assert_unsound(documents: VectorSet, field: str) -> None:
    """Search all documents and a slice of them for the first, by both engines: row 61 is unsound."""
    queries = documents.slice(0, 1)
    tie_ranks = in_row_order(len(documents))
    for shard in (documents, documents.slice(30, 80)):
        for plan in (Plan(), Plan(device="cpu")):
            with pytest.raises(UnsoundError) as error:
                next(search(queries, shard, 5, tie_ranks[shard.first :], 1.0, plan))
            assert error.value.row == 61
            assert error.value.field == field


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_score_that_rounds_to_minus_zero_is_tied_with_zero(plan: Plan) -> None:
    """-1e-60 is too small for 32 bits; the tie ranks alone decide among three zeros."""
    queries = vector_set([-1e-30, 0])
    documents = vector_set([1e-30, 0], [0, 0], [0, 1])
    best = search_all(queries, documents, 1, in_row_order(3), 1.0, plan)
    assert best.rows.tolist() == [[0]]
    assert not np.signbit(best.scores).any()


# Shards


@pytest.mark.parametrize("shards", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("kind", ["whole", "normal", "doubled"])
def test_shards_merge_to_the_whole(kind: str, shards: int) -> None:
    draw = np.random.default_rng(9)
    queries = draw_vector_set(draw, kind, 70, 6)
    documents = draw_vector_set(draw, kind, 40, 6)
    tie_ranks = draw_tie_ranks(draw, 40)
    for depth in (1, 12, 40, 100):
        rankings = []
        for shard in range(shards):
            begin = 40 * shard // shards
            end = 40 * (shard + 1) // shards
            shard_documents = documents.slice(begin, end)
            rankings.append(search_all(queries, shard_documents, depth, tie_ranks[begin:end]))
        merged = merge(rankings, tie_ranks, min(depth, 40))
        unsharded = search_all(queries, documents, depth, tie_ranks)
        assert_same(merged, unsharded)


def test_a_merge_ends_where_its_lists_end() -> None:
    first = padded(3, {4: 3, 1: 1}, {})
    second = padded(2, {0: 3, 2: 1}, {3: -5})
    tie_ranks = np.asarray([1, 0, 2, 3, 4], np.int32)
    complete = merge([first, second], tie_ranks, 5)
    cut = merge([second, first], tie_ranks, 3)
    assert_same(complete, padded(5, {0: 3, 4: 3, 1: 1, 2: 1}, {3: -5}))
    assert_same(cut, padded(3, {0: 3, 4: 3, 1: 1}, {3: -5}))


def padded(depth: int, *queries: dict[int, float]) -> TopK:
    """Return the result of queries, each with the scores of its rows, padded to a depth."""
    rows = np.full((len(queries), depth), -1, np.int32)
    scores = np.full((len(queries), depth), -np.inf, np.float32)
    for query, hits in enumerate(queries):
        rows[query, : len(hits)] = list(hits)
        scores[query, : len(hits)] = list(hits.values())
    return TopK(rows, scores)
