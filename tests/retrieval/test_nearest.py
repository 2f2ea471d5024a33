"""Exact search against every score written out: ties, duplicates, sizes, storage, engines, blocks, shards."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from retrobench.retrieval.nearest import Plan, UnsoundError, VectorSet, bounds, merge, scanning, search, torch_buffer
from retrobench.retrieval.nearest.bounds import ErrorBound
from retrobench.retrieval.nearest.canonical import torch_sums
from retrobench.retrieval.nearest.kernels import LANES
from retrobench.retrieval.nearest.numba_buffer import NumbaBuffer
from retrobench.retrieval.nearest.torch_buffer import TorchBuffer
from retrobench.retrieval.vectors import Terms
from retrobench.retrieval.vectors.layout import narrowed, widened
from retrobench.scoring.ranking import precedence

WORDS = 40
# Every way to search; the last three are the GPU's code, on the processor.
PLANS = {
    "as it comes": Plan(),
    "32 bits": Plan(first="fp32"),
    "16 bits": Plan(first="bf16"),
    "16 bits, small blocks": Plan(queries=3, documents=7, first="bf16"),
    "32 bits, one by one": Plan(queries=1, documents=1, first="fp32"),
    "torch": Plan(device="cpu"),
    "torch, 32 bits": Plan(first="fp32", device="cpu"),
    "torch, small blocks": Plan(queries=4, documents=5, device="cpu"),
}


def dense(draw: np.random.Generator, kind: str, rows: int, width: int) -> np.ndarray:
    if kind == "whole":  # few values: most scores are shared
        return draw.integers(-1, 2, (rows, width)).astype(np.float32)
    vectors = draw.standard_normal((rows, width)).astype(np.float32)
    if kind == "collapsed":  # all nearly one vector: what bfloat16 sees of them is the same
        return np.float32(10) + np.float32(1e-4) * vectors
    if kind == "scales":
        return vectors * np.float32(10) ** draw.integers(-18, 14, (rows, 1)).astype(np.float32)
    if kind == "doubled":
        vectors[rows // 2 :] = vectors[: rows - rows // 2]
    return vectors


def terms(draw: np.random.Generator, rows: int, whole: bool) -> Terms:
    counts = draw.integers(0, 9, rows)
    indices = [draw.permutation(WORDS)[:count] for count in counts]
    total = int(counts.sum())
    values = draw.integers(-2, 3, total) if whole else draw.standard_normal(total)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return Terms(indptr, np.concatenate([*indices, []]).astype(np.int32), values.astype(np.float32))


def fold(products: np.ndarray) -> np.ndarray:
    """The canonical sums [...] of products [..., n], as `canonical` words them, element by element."""
    lanes = np.zeros((*products.shape[:-1], LANES))
    for place in range(products.shape[-1]):
        lanes[..., place % LANES] += products[..., place]
    size = LANES
    while size > 1:
        size //= 2
        lanes = lanes[..., :size] + lanes[..., size : 2 * size]
    return lanes[..., 0]


def oracle(queries: VectorSet, documents: VectorSet, scale: float) -> np.ndarray:
    """All scores, [Q, N] float32."""
    total = np.zeros((len(queries), len(documents)))
    if documents.width:
        left, right = (part.block(0, len(part)).astype(np.float64) for part in (queries, documents))
        total += fold(left[:, None] * right[None])
    if documents.terms:
        asked, (indptr, indices, values) = queries.written_terms(0, len(queries)).astype(np.float64), documents.terms
        for row in range(len(documents)):
            here = slice(indptr[row], indptr[row + 1])
            total[:, row] += scale * fold(asked[:, indices[here]] * values[here].astype(np.float64))
    return total.astype(np.float32) + np.float32(0)


def expected(scores: np.ndarray, tie_ranks: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.stack([np.lexsort((tie_ranks, -of.astype(np.float64))) for of in scores])[:, :depth]
    return rows, np.take_along_axis(scores, rows, 1)


def found(*given: Any) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = (np.concatenate(part) for part in zip(*search(*given), strict=True))
    assert rows.dtype == np.int32 and scores.dtype == np.float32
    return rows, scores


def same(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.array_equal(ours[0], theirs[0])
    assert np.array_equal(ours[1].view(np.int32), theirs[1].view(np.int32)), "to the last bit"


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most numbers that a tensor made meanwhile held, views apart."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_memory(part) for part in args}
        parts = out if isinstance(out, tuple | list) else [out]
        self.numbers = max(self.numbers, *(part.numel() for part in parts if _memory(part) not in {None, *given}), 0)
        return out


def _memory(part: Any) -> int | None:
    there = isinstance(part, torch.Tensor) and part.layout is torch.strided
    return part.untyped_storage().data_ptr() if there else None


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
    for queries, documents, width, depth in SIZES:
        asked, among = (VectorSet(dense(draw, kind, rows, width)) for rows in (queries, documents))
        tie_ranks = draw.permutation(documents).astype(np.int32)
        same(found(asked, among, depth, tie_ranks, 1.0, plan), expected(oracle(asked, among, 1.0), tie_ranks, depth))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_terms_are_every_score_sorted(both: bool, whole: bool, plan: Plan) -> None:
    draw = np.random.default_rng(4)
    for queries, documents, width, depth in SIZES:
        sides = []
        for rows in (queries, documents):
            vectors = dense(draw, "whole" if whole else "normal", rows, width) if both else None
            sides.append(VectorSet(vectors, terms(draw, rows, whole), WORDS))
        tie_ranks = draw.permutation(documents).astype(np.int32)
        scores = oracle(sides[0], sides[1], 0.3)
        same(found(*sides, depth, tie_ranks, 0.3, plan), expected(scores, tie_ranks, depth))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_what_is_stored_in_16_bits_is_scored_as_its_32_bit_numbers(stored: str, plan: Plan) -> None:
    draw = np.random.default_rng(5)
    vectors, asked = dense(draw, "normal", 300, 40), VectorSet(dense(draw, "normal", 5, 40))
    bits = narrowed(vectors, stored)
    tie_ranks = draw.permutation(300).astype(np.int32)
    wide = VectorSet(widened(bits, stored))
    same(found(asked, VectorSet(bits, stored=stored), 20, tie_ranks, 1.0, plan), found(asked, wide, 20, tie_ranks))
    same(found(asked, wide, 20, tie_ranks), expected(oracle(asked, wide, 1.0), tie_ranks, 20))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_more_equals_than_there_is_room_for(plan: Plan) -> None:
    """Candidates that the first pass cannot tell apart are settled as they come: 3,000 of them, room for 1,024."""
    draw = np.random.default_rng(6)
    tie_ranks = draw.permutation(3000).astype(np.int32)
    for vectors in (np.ones((3000, 8), np.float32), dense(draw, "collapsed", 3000, 8)):
        asked = VectorSet(dense(draw, "collapsed", 4, 8))
        among = VectorSet(vectors)
        plan_ = plan if plan.documents != 1 else Plan(first="fp32", documents=50)
        same(found(asked, among, 9, tie_ranks, 1.0, plan_), expected(oracle(asked, among, 1.0), tie_ranks, 9))


def test_the_worst_order_that_documents_can_come_in() -> None:
    """Each is better than all before, so each reaches the threshold."""
    vectors = np.linspace(-1, 1, 20_000, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    asked, tie_ranks = VectorSet(np.ones((2, 4), np.float32)), np.arange(20_000, dtype=np.int32)
    for plan in (Plan(first="bf16"), Plan(first="fp32"), Plan(device="cpu", documents=512)):
        rows, _ = found(asked, VectorSet(vectors), 30, tie_ranks, 1.0, plan)
        assert rows.tolist() == [list(range(19_999, 19_969, -1))] * 2


@pytest.mark.parametrize("later", [0.75, 0.65])
def test_a_threshold_is_loosened_for_documents_with_a_larger_error(later: float) -> None:
    """Ten first scores of 1 may be off by 0.1, so that one of 0.8 counts; one off by 0.3 counts from 0.6 on."""
    truth = np.asarray([0.9] * 1100 + [later + 0.3], np.float32)
    blocks = ((np.ones((1, 1100), np.float32), 0, 0.1), (np.full((1, 1), later, np.float32), 1100, 0.3))
    tie_ranks = np.arange(1101, dtype=np.int32)
    compiled = NumbaBuffer(1, 10, tie_ranks, lambda queries, rows: truth[rows])
    tensors = TorchBuffer(1, 10, torch.from_numpy(tie_ranks), lambda queries, rows: torch.from_numpy(truth)[rows])
    for scores, first_row, error in blocks:
        bound = ErrorBound(np.zeros(1), np.full(1, error), 0.0)
        compiled.add(scores, first_row, bound)
        tensors.add(torch.from_numpy(scores), first_row, as_tensors(bound))
    assert compiled.finish().rows.tolist() == tensors.finish().rows.tolist() == [[1100, *range(9)]]


def as_tensors(bound: ErrorBound) -> ErrorBound:
    return ErrorBound(torch.from_numpy(bound.shifts), torch.from_numpy(bound.errors), bound.unit)


@pytest.mark.parametrize("unit", [0.0, bounds.UNIT])
def test_thresholds_of_arrays_tensors_and_the_compiled_loop_are_equal(unit: float) -> None:
    """For a k-th largest score of 3 and errors of 0.5 it is 2, or 2.5 where the 3 is canonical, less the rounding."""
    draw = np.random.default_rng(12)
    kth, shifts, errors = draw.standard_normal(200) * 10, draw.standard_normal(200), draw.random(200)
    bound = ErrorBound(shifts, errors, unit)
    arrays = bounds.first_threshold(kth, bound)
    tensors = bounds.first_threshold(torch.from_numpy(kth), as_tensors(bound))
    compiled = [scanning.first_threshold(*numbers, unit) for numbers in zip(kth, shifts, errors, strict=True)]
    assert arrays.tolist() == tensors.tolist() == compiled
    three, bound = np.full(1, 3.0), ErrorBound(np.zeros(1), np.full(1, 0.5), unit)
    assert bounds.first_threshold(three, bound) == (2 - 3 * unit) / (1 + unit)
    assert bounds.canonical_threshold(three, bound) == 2.5 / (1 + unit)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    draw = np.random.default_rng(7)
    asked, among = VectorSet(dense(draw, "normal", 100, 48)), VectorSet(dense(draw, "doubled", 9000, 48))
    tie_ranks = precedence([f"d{row}" for row in range(9000)])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        many = found(asked, among, 50, tie_ranks, 1.0, Plan(first="bf16"))
    finally:
        torch.set_num_threads(before)
    same(many, expected(oracle(asked, among, 1.0), tie_ranks, 50))


@pytest.mark.parametrize("width", [1, 31, 32, 33, 100])
def test_torch_sums_as_the_compiled_loop_does(width: int) -> None:
    draw = np.random.default_rng(8)
    left, right = dense(draw, "scales", 50, width), dense(draw, "scales", 50, width)
    sums = torch_sums(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    assert np.array_equal(sums, fold(left.astype(np.float64) * right.astype(np.float64)))


def test_no_query_and_no_document() -> None:
    some, none = VectorSet(np.ones((3, 4), np.float32)), VectorSet(np.ones((0, 4), np.float32))
    for plan in (Plan(), Plan(device="cpu")):
        assert list(search(none, some, 5, np.arange(3, dtype=np.int32), 1.0, plan)) == []
        assert list(search(some, none, 5, np.zeros(0, np.int32), 1.0, plan)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e15])
def test_what_cannot_be_ranked_is_told_by_its_row(value: float) -> None:
    vectors = np.ones((80, 4), np.float32)
    vectors[61, 2] = value
    good, tie_ranks = VectorSet(vectors[:1]), np.arange(80, dtype=np.int32)
    starts = np.arange(81)
    sparse = VectorSet(None, Terms(starts, np.zeros(80, np.int32), vectors[:, 2].copy()), 4)
    for asked, among, part in ((good, VectorSet(vectors), "dense"), (sparse.slice(0, 1), sparse, "terms")):
        for some in (among, among.slice(30, 80)):
            for plan in (Plan(), Plan(device="cpu")):
                with pytest.raises(UnsoundError) as error:
                    next(search(asked, some, 5, tie_ranks[some.first :], 1.0, plan))
                assert (error.value.row, error.value.field) == (61, part)


def test_pairs_of_terms_are_scored_without_the_vocabulary() -> None:
    """4,096 pairs of 8 words each; a row of the vocabulary for each pair would be 123 million numbers."""
    draw, words = np.random.default_rng(10), 30_000
    indices = draw.integers(0, words // 8, (512, 8)) * 8 + np.arange(8)
    among = VectorSet(
        None,
        Terms(np.arange(513) * 8, indices.ravel().astype(np.int32), draw.random(4096).astype(np.float32)),
        words,
    )
    tie_ranks = np.arange(512, dtype=np.int32)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        again = found(among.slice(0, 8), among, 512, tie_ranks, 1.0, Plan(device="cpu"))
    assert largest.numbers <= 512 * 1024
    same(again, found(among.slice(0, 8), among, 512, tie_ranks))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_score_that_rounds_to_minus_zero_is_tied_with_zero(plan: Plan) -> None:
    """-1e-60 is below what 32 bits hold; the tie_ranks alone decide among three zeros."""
    asked = VectorSet(np.asarray([[-1e-30, 0]], np.float32))
    among = VectorSet(np.asarray([[1e-30, 0], [0, 0], [0, 1]], np.float32))
    rows, scores = found(asked, among, 1, np.arange(3, dtype=np.int32), 1.0, plan)
    assert rows.tolist() == [[0]] and not np.signbit(scores).any()


@pytest.mark.parametrize("first", ["equal", "near"])
def test_first_scores_that_are_all_alike_are_looked_at_some_at_a_time(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tile passes: 32 queries times 16,384 documents, of which an eighth is looked at together."""
    monkeypatch.setattr(torch_buffer, "_TILES", 2**9)
    monkeypatch.setattr(torch_buffer, "_PAIRS", 2**14)
    draw, count = np.random.default_rng(11), 2**14
    vectors = np.ones((count, 2), np.float32)
    if first == "near":
        vectors += np.float32(1e-5) * draw.standard_normal((count, 2)).astype(np.float32)
    asked, among = VectorSet(np.ones((32, 2), np.float32)), VectorSet(vectors)
    tie_ranks = draw.permutation(count).astype(np.int32)
    scores = torch.from_numpy(asked.block(0, 32) @ vectors.T)
    bound = as_tensors(ErrorBound(np.zeros(32), np.full(32, 1e-3), 0.0))
    with Largest() as largest:  # type: ignore[no-untyped-call]
        buffer = TorchBuffer(32, 5, torch.from_numpy(tie_ranks), lambda queries, rows: scores[queries, rows])
        buffer.add(scores, 0, bound)
        ranking = buffer.finish()
    assert largest.numbers <= 2 * 2**9 * 128, "query and column of each hit that is looked at"
    same(ranking, expected(scores.numpy(), tie_ranks, 5))
    same(found(asked, among, 5, tie_ranks, 1.0, Plan(device="cpu")), found(asked, among, 5, tie_ranks))


# Shards


@pytest.mark.parametrize("shards", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("kind", ["whole", "normal", "doubled"])
def test_shards_merge_to_the_whole(kind: str, shards: int) -> None:
    draw = np.random.default_rng(9)
    asked, among = VectorSet(dense(draw, kind, 70, 6)), VectorSet(dense(draw, kind, 40, 6))
    tie_ranks = draw.permutation(40).astype(np.int32)
    for depth in (1, 12, 40, 100):
        edges = [40 * shard // shards for shard in range(shards + 1)]
        parts = [
            found(asked, among.slice(begin, end), depth, tie_ranks[begin:end])
            for begin, end in itertools.pairwise(edges)
        ]
        same(merge(parts, tie_ranks, min(depth, 40)), found(asked, among, depth, tie_ranks))


def test_a_merge_ends_where_its_lists_end() -> None:
    one = np.asarray([[4, 1, -1], [-1, -1, -1]], np.int32), np.asarray([[3, 1, -np.inf], [-np.inf] * 3], np.float32)
    other = np.asarray([[0, 2], [3, -1]], np.int32), np.asarray([[3, 1], [-5, -np.inf]], np.float32)
    tie_ranks = np.asarray([1, 0, 2, 3, 4], np.int32)
    rows, scores = merge([one, other], tie_ranks, 5)
    assert rows.tolist() == [[0, 4, 1, 2, -1], [3, -1, -1, -1, -1]]
    assert scores.tolist() == [[3, 3, 1, 1, -np.inf], [-5] + [-np.inf] * 4]
    assert merge([other, one], tie_ranks, 3)[0].tolist() == [[0, 4, 1], [3, -1, -1]]
