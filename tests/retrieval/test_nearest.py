"""Exact search against every score written out: ties, duplicates, sizes, storage, engines, blocks, shards."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from retrobench.retrieval.nearest import Documents, Plan, UnsoundError, merge, search
from retrobench.retrieval.nearest import held as holding
from retrobench.retrieval.nearest.canonical import torch_sums
from retrobench.retrieval.nearest.held import Held
from retrobench.retrieval.nearest.kept import Kept
from retrobench.retrieval.nearest.kernels import LANES
from retrobench.retrieval.vectors import Terms
from retrobench.retrieval.vectors.layout import narrowed, widened
from retrobench.scoring.ranking import precedence

WORDS = 40
# Every way to search; the last two are the GPU's code, on the processor.
PLANS = {
    "as it comes": Plan(),
    "32 bits": Plan(first="fp32"),
    "16 bits": Plan(first="bf16"),
    "16 bits, small blocks": Plan(queries=3, documents=7, first="bf16"),
    "32 bits, one by one": Plan(queries=1, documents=1, first="fp32"),
    "torch": Plan(device="cpu"),
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


def oracle(queries: Documents, documents: Documents, scale: float) -> np.ndarray:
    """All scores, [Q, N] float32."""
    total = np.zeros((len(queries), len(documents)))
    if documents.width:
        left, right = (part.block(0, len(part)).astype(np.float64) for part in (queries, documents))
        total += fold(left[:, None] * right[None])
    if documents.terms:
        asked, (indptr, indices, values) = queries.whole_terms(0, len(queries)).astype(np.float64), documents.terms
        for row in range(len(documents)):
            here = slice(indptr[row], indptr[row + 1])
            total[:, row] += scale * fold(asked[:, indices[here]] * values[here].astype(np.float64))
    return total.astype(np.float32) + np.float32(0)


def expected(scores: np.ndarray, places: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.stack([np.lexsort((places, -of.astype(np.float64))) for of in scores])[:, :depth]
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
        asked, among = (Documents(dense(draw, kind, rows, width)) for rows in (queries, documents))
        places = draw.permutation(documents).astype(np.int32)
        same(found(asked, among, depth, places, 1.0, plan), expected(oracle(asked, among, 1.0), places, depth))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_terms_are_every_score_sorted(both: bool, whole: bool, plan: Plan) -> None:
    draw = np.random.default_rng(4)
    for queries, documents, width, depth in SIZES:
        sides = []
        for rows in (queries, documents):
            vectors = dense(draw, "whole" if whole else "normal", rows, width) if both else None
            sides.append(Documents(vectors, terms(draw, rows, whole), WORDS))
        places = draw.permutation(documents).astype(np.int32)
        scores = oracle(sides[0], sides[1], 0.3)
        same(found(*sides, depth, places, 0.3, plan), expected(scores, places, depth))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_what_is_stored_in_16_bits_is_scored_as_its_32_bit_numbers(stored: str, plan: Plan) -> None:
    draw = np.random.default_rng(5)
    vectors, asked = dense(draw, "normal", 300, 40), Documents(dense(draw, "normal", 5, 40))
    bits = narrowed(vectors, stored)
    places = draw.permutation(300).astype(np.int32)
    wide = Documents(widened(bits, stored))
    same(found(asked, Documents(bits, stored=stored), 20, places, 1.0, plan), found(asked, wide, 20, places))
    same(found(asked, wide, 20, places), expected(oracle(asked, wide, 1.0), places, 20))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_more_equals_than_there_is_room_for(plan: Plan) -> None:
    """Candidates that the first pass cannot tell apart are settled as they come: 3,000 of them, room for 1,024."""
    draw = np.random.default_rng(6)
    places = draw.permutation(3000).astype(np.int32)
    for vectors in (np.ones((3000, 8), np.float32), dense(draw, "collapsed", 3000, 8)):
        asked = Documents(dense(draw, "collapsed", 4, 8))
        among = Documents(vectors)
        plan_ = plan if plan.documents != 1 else Plan(first="fp32", documents=50)
        same(found(asked, among, 9, places, 1.0, plan_), expected(oracle(asked, among, 1.0), places, 9))


def test_the_worst_order_that_documents_can_come_in() -> None:
    """Each is better than all before, so each passes the bar."""
    vectors = np.linspace(-1, 1, 20_000, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    asked, places = Documents(np.ones((2, 4), np.float32)), np.arange(20_000, dtype=np.int32)
    for plan in (Plan(first="bf16"), Plan(first="fp32"), Plan(device="cpu", documents=512)):
        rows, _ = found(asked, Documents(vectors), 30, places, 1.0, plan)
        assert rows.tolist() == [list(range(19_999, 19_969, -1))] * 2


@pytest.mark.parametrize("later", [0.75, 0.65])
def test_a_bar_gives_way_to_documents_whose_first_scores_are_worse(later: float) -> None:
    """Ten first scores of 1 may be off by 0.1, so that one of 0.8 counts; one off by 0.3 counts from 0.6 on."""
    truth = np.asarray([0.9] * 1100 + [later + 0.3], np.float32)
    blocks = ((np.ones((1, 1100), np.float32), 0, 0.1), (np.full((1, 1), later, np.float32), 1100, 0.3))
    places = np.arange(1101, dtype=np.int32)
    compiled = Kept(1, 10, places, lambda asked, rows: truth[rows])
    held = Held(1, 10, torch.from_numpy(places), lambda asked, rows: torch.from_numpy(truth)[rows])
    for scores, first, slack in blocks:
        compiled.add(scores, first, np.zeros(1), np.full(1, slack), 0.0)
        held.add(torch.from_numpy(scores), first, torch.zeros(1).double(), torch.full((1,), slack).double(), 0.0)
    rows, _ = compiled.finish(np.zeros(1), np.full(1, 0.3), 0.0)
    again, _ = held.finish(torch.zeros(1).double(), torch.full((1,), 0.3).double(), 0.0)
    assert rows.tolist() == again.tolist() == [[1100, *range(9)]]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    draw = np.random.default_rng(7)
    asked, among = Documents(dense(draw, "normal", 100, 48)), Documents(dense(draw, "doubled", 9000, 48))
    places = precedence([f"d{row}" for row in range(9000)])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        many = found(asked, among, 50, places, 1.0, Plan(first="bf16"))
    finally:
        torch.set_num_threads(before)
    same(many, expected(oracle(asked, among, 1.0), places, 50))


@pytest.mark.parametrize("width", [1, 31, 32, 33, 100])
def test_torch_sums_as_the_compiled_loop_does(width: int) -> None:
    draw = np.random.default_rng(8)
    left, right = dense(draw, "scales", 50, width), dense(draw, "scales", 50, width)
    sums = torch_sums(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    assert np.array_equal(sums, fold(left.astype(np.float64) * right.astype(np.float64)))


def test_no_query_and_no_document() -> None:
    some, none = Documents(np.ones((3, 4), np.float32)), Documents(np.ones((0, 4), np.float32))
    for plan in (Plan(), Plan(device="cpu")):
        assert list(search(none, some, 5, np.arange(3, dtype=np.int32), 1.0, plan)) == []
        assert list(search(some, none, 5, np.zeros(0, np.int32), 1.0, plan)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e15])
def test_what_cannot_be_ranked_is_told_by_its_row(value: float) -> None:
    vectors = np.ones((80, 4), np.float32)
    vectors[61, 2] = value
    good, places = Documents(vectors[:1]), np.arange(80, dtype=np.int32)
    starts = np.arange(81)
    sparse = Documents(None, Terms(starts, np.zeros(80, np.int32), vectors[:, 2].copy()), 4)
    for asked, among, part in ((good, Documents(vectors), "dense"), (sparse.part(0, 1), sparse, "terms")):
        for some in (among, among.part(30, 80)):
            for plan in (Plan(), Plan(device="cpu")):
                with pytest.raises(UnsoundError) as error:
                    next(search(asked, some, 5, places[some.first :], 1.0, plan))
                assert (error.value.row, error.value.part) == (61, part)


def test_pairs_of_terms_are_scored_without_the_vocabulary() -> None:
    """4,096 pairs of 8 words each; a row of the vocabulary for each pair would be 123 million numbers."""
    draw, words = np.random.default_rng(10), 30_000
    indices = draw.integers(0, words // 8, (512, 8)) * 8 + np.arange(8)
    among = Documents(
        None,
        Terms(np.arange(513) * 8, indices.ravel().astype(np.int32), draw.random(4096).astype(np.float32)),
        words,
    )
    places = np.arange(512, dtype=np.int32)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        again = found(among.part(0, 8), among, 512, places, 1.0, Plan(device="cpu"))
    assert largest.numbers <= 512 * 1024
    same(again, found(among.part(0, 8), among, 512, places))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_score_that_rounds_to_minus_zero_is_tied_with_zero(plan: Plan) -> None:
    """-1e-60 is below what 32 bits hold; the places alone decide among three zeros."""
    asked = Documents(np.asarray([[-1e-30, 0]], np.float32))
    among = Documents(np.asarray([[1e-30, 0], [0, 0], [0, 1]], np.float32))
    rows, scores = found(asked, among, 1, np.arange(3, dtype=np.int32), 1.0, plan)
    assert rows.tolist() == [[0]] and not np.signbit(scores).any()


@pytest.mark.parametrize("first", ["equal", "near"])
def test_first_scores_that_are_all_alike_are_looked_at_some_at_a_time(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tile passes: 32 queries times 16,384 documents, of which an eighth is looked at together."""
    monkeypatch.setattr(holding, "_LOOKED", 2**9)
    monkeypatch.setattr(holding, "_PAIRS", 2**14)
    draw, count = np.random.default_rng(11), 2**14
    vectors = np.ones((count, 2), np.float32)
    if first == "near":
        vectors += np.float32(1e-5) * draw.standard_normal((count, 2)).astype(np.float32)
    asked, among = Documents(np.ones((32, 2), np.float32)), Documents(vectors)
    places = draw.permutation(count).astype(np.int32)
    scores = torch.from_numpy(asked.block(0, 32) @ vectors.T)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        held = Held(32, 5, torch.from_numpy(places), lambda queries, rows: scores[queries, rows])
        slack = torch.full((32,), 1e-3, dtype=torch.float64)
        held.add(scores, 0, torch.zeros_like(slack), slack, 0.0)
        rows, values = held.finish(torch.zeros_like(slack), slack, 0.0)
    assert largest.numbers <= 2 * 2**9 * 128, "query and column of each hit that is looked at"
    same((rows.numpy(), values.numpy()), expected(scores.numpy(), places, 5))
    same(found(asked, among, 5, places, 1.0, Plan(device="cpu")), found(asked, among, 5, places))


# Shards


@pytest.mark.parametrize("shards", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("kind", ["whole", "normal", "doubled"])
def test_shards_merge_to_the_whole(kind: str, shards: int) -> None:
    draw = np.random.default_rng(9)
    asked, among = Documents(dense(draw, kind, 70, 6)), Documents(dense(draw, kind, 40, 6))
    places = draw.permutation(40).astype(np.int32)
    for depth in (1, 12, 40, 100):
        edges = [40 * shard // shards for shard in range(shards + 1)]
        parts = [
            found(asked, among.part(begin, end), depth, places[begin:end]) for begin, end in itertools.pairwise(edges)
        ]
        same(merge(parts, places, min(depth, 40)), found(asked, among, depth, places))


def test_a_merge_ends_where_its_lists_end() -> None:
    one = np.asarray([[4, 1, -1], [-1, -1, -1]], np.int32), np.asarray([[3, 1, -np.inf], [-np.inf] * 3], np.float32)
    other = np.asarray([[0, 2], [3, -1]], np.int32), np.asarray([[3, 1], [-5, -np.inf]], np.float32)
    places = np.asarray([1, 0, 2, 3, 4], np.int32)
    rows, scores = merge([one, other], places, 5)
    assert rows.tolist() == [[0, 4, 1, 2, -1], [3, -1, -1, -1, -1]]
    assert scores.tolist() == [[3, 3, 1, 1, -np.inf], [-5] + [-np.inf] * 4]
    assert merge([other, one], places, 3)[0].tolist() == [[0, 4, 1], [3, -1, -1]]
