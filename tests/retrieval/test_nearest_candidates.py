"""The candidates of exact search: the thresholds that keep them, and the memory that they take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from exact_search import assert_same, draw_tie_ranks, expected, in_row_order, ones, search_all
from torch.utils._python_dispatch import TorchDispatchMode

from retrobench.retrieval.nearest import Plan, VectorSet, bounds, numba_engine, scanning, torch_buffer
from retrobench.retrieval.nearest.bounds import ErrorBound
from retrobench.retrieval.nearest.kernels import Rounded, TopK, round_to_int8
from retrobench.retrieval.nearest.numba_buffer import NumbaBuffer
from retrobench.retrieval.nearest.numba_engine import NumbaEngine
from retrobench.retrieval.nearest.scanning import FirstScores
from retrobench.retrieval.nearest.torch_buffer import TorchBuffer
from retrobench.retrieval.nearest.torch_engine import TorchEngine
from retrobench.retrieval.vectors import Terms


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the most numbers of a tensor made within the context, views apart."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        ignored: set[int | None] = {None}
        for argument in args:
            ignored.add(_memory(argument))
        outputs = [result]
        if isinstance(result, tuple | list):
            outputs = list(result)
        for output in outputs:
            if _memory(output) not in ignored:
                self.numbers = max(self.numbers, output.numel())
        return result


def _memory(value: Any) -> int | None:
    """Return the address of a dense tensor's memory."""
    if isinstance(value, torch.Tensor) and value.layout is torch.strided:
        return value.untyped_storage().data_ptr()
    return None


@pytest.mark.parametrize("later", [0.75, 0.65])
def test_a_threshold_is_loosened_for_documents_with_a_larger_error(later: float) -> None:
    """First scores of 1 with an error of 0.1 keep candidates from 0.8 on; an error of 0.3 keeps them from 0.6 on."""
    canonical = np.full(1701, 0.9, np.float32)
    canonical[1700] = later + 0.3
    canonical_tensor = torch.from_numpy(canonical)
    tie_ranks = in_row_order(1701)
    compiled = NumbaBuffer(1, 10, tie_ranks, lambda queries, rows: canonical[rows])
    tensors = TorchBuffer(1, 10, torch.from_numpy(tie_ranks), lambda queries, rows: canonical_tensor[rows])

    def add(scores: np.ndarray, first_row: int, error: float) -> None:
        bound = equal_bounds(1, error)
        compiled.add(FirstScores.plain(scores), first_row, bound)
        tensors.add(torch.from_numpy(scores), first_row, as_tensors(bound))

    first_scores = np.ones((1, 1700), np.float32)
    later_score = np.full((1, 1), later, np.float32)
    add(first_scores, 0, error=0.1)
    add(later_score, 1700, error=0.3)
    best_rows = [[1700, *range(9)]]
    assert compiled.finish().rows.tolist() == best_rows
    assert tensors.finish().rows.tolist() == best_rows


def equal_bounds(queries: int, error: float, unit: float = 0.0) -> ErrorBound:
    """Return the same bound for each query, without a shift."""
    return ErrorBound(np.zeros(queries), np.full(queries, error), unit)


def as_tensors(bound: ErrorBound) -> ErrorBound:
    shifts = torch.from_numpy(bound.shifts)
    errors = torch.from_numpy(bound.errors)
    return ErrorBound(shifts, errors, bound.unit)


@pytest.mark.parametrize("unit", [0.0, bounds.UNIT])
def test_thresholds_of_arrays_tensors_and_the_compiled_loop_are_equal(unit: float) -> None:
    draw = np.random.default_rng(12)
    kth = draw.standard_normal(200) * 10
    shifts = draw.standard_normal(200)
    errors = draw.random(200)
    bound = ErrorBound(shifts, errors, unit)
    arrays = bounds.first_threshold(kth, bound)
    tensors = bounds.first_threshold(torch.from_numpy(kth), as_tensors(bound))
    assert tensors.tolist() == arrays.tolist()
    if unit:
        return
    compiled = []
    for query in range(200):
        compiled.append(scanning.first_threshold(kth[query], shifts[query], errors[query]))
    assert compiled == arrays.tolist()


@pytest.mark.parametrize("unit", [0.0, bounds.UNIT])
def test_a_threshold_is_the_kth_score_less_its_error(unit: float) -> None:
    """A k-th largest score of 3 with an error of 0.5 gives 2, or 2.5 if it is canonical, less the rounding."""
    kth = np.full(1, 3.0)
    bound = equal_bounds(1, 0.5, unit)
    first = bounds.first_threshold(kth, bound)
    canonical = bounds.canonical_threshold(kth, bound)
    assert first == (2 - 3 * unit) / (1 + unit)
    assert canonical == 2.5 / (1 + unit)


def test_pairs_of_terms_are_scored_without_the_vocabulary() -> None:
    """4,096 pairs of 8 words each; a row of the vocabulary for each pair would be 123 million numbers."""
    draw = np.random.default_rng(10)
    words = 30_000
    drawn_words = draw.integers(0, words // 8, (512, 8)) * 8 + np.arange(8)
    indices = drawn_words.ravel().astype(np.int32)
    values = draw.random(4096).astype(np.float32)
    indptr = np.arange(513) * 8
    documents = VectorSet(None, Terms(indptr, indices, values), words)
    queries = documents.slice(0, 8)
    tie_ranks = in_row_order(512)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        by_torch = search_all(queries, documents, 512, tie_ranks, 1.0, Plan(device="cpu"))
    assert largest.numbers <= 512 * 1024
    by_numba = search_all(queries, documents, 512, tie_ranks)
    assert_same(by_torch, by_numba)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the numbers of tiles and of pairs that are read together."""
    monkeypatch.setattr(torch_buffer, "_TILES", 2**9)
    monkeypatch.setattr(torch_buffer, "_PAIRS", 2**14)


def similar_vectors(draw: np.random.Generator, first: str) -> np.ndarray:
    """Return 16,384 vectors [N, 2] that are equal or near each other."""
    vectors = np.ones((2**14, 2), np.float32)
    if first == "near":
        noise = draw.standard_normal((2**14, 2)).astype(np.float32)
        vectors += np.float32(1e-5) * noise
    return vectors


@pytest.mark.parametrize("first", ["equal", "near"])
def test_equal_first_scores_are_read_in_steps(first: str, small_steps: None) -> None:
    """Every tile passes: 32 queries times 16,384 documents, an eighth of which is read together."""
    draw = np.random.default_rng(11)
    query_vectors = np.ones((32, 2), np.float32)
    document_vectors = similar_vectors(draw, first)
    tie_ranks = draw_tie_ranks(draw, 2**14)
    scores = torch.from_numpy(query_vectors @ document_vectors.T)
    bound = as_tensors(equal_bounds(32, 1e-3))
    with Largest() as largest:  # type: ignore[no-untyped-call]
        buffer = TorchBuffer(32, 5, torch.from_numpy(tie_ranks), lambda queries, rows: scores[queries, rows])
        buffer.add(scores, 0, bound)
        ranking = buffer.finish()
    assert largest.numbers <= 2 * 2**9 * 128, "query and column of each hit that is read together"
    assert_same(ranking, expected(scores.numpy(), tie_ranks, 5))


@pytest.mark.parametrize("first", ["equal", "near"])
def test_a_search_in_steps_equals_the_compiled_one(first: str, small_steps: None) -> None:
    draw = np.random.default_rng(11)
    queries = ones(32, 2)
    documents = VectorSet(similar_vectors(draw, first))
    tie_ranks = draw_tie_ranks(draw, 2**14)
    by_torch = search_all(queries, documents, 5, tie_ranks, 1.0, Plan(device="cpu"))
    by_numba = search_all(queries, documents, 5, tie_ranks)
    assert_same(by_torch, by_numba)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_only_emulates_bf16_starts_in_32_bits(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = VectorSet(np.eye(4, dtype=np.float32))
    engine = TorchEngine(documents, np.arange(4, dtype=np.int32), 1.0, Plan(device="cpu"))
    assert engine.rounding_pays(200), "the engine of the tests computes bfloat16 on any processor"
    engine.vectors.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert engine.rounding_pays(200) is native


@pytest.mark.parametrize("width", [1, 33, 300])
def test_first_scores_in_int8_are_within_their_bound(width: int) -> None:
    """In four blocks, whose errors grow: a document whose rounding loses less than another's has a penalty."""
    draw = np.random.default_rng(13)
    vectors = draw.standard_t(3, (400, width)).astype(np.float32) + np.float32(2)
    vectors *= draw.random((400, 1)).astype(np.float32)
    vectors[7] = 0
    query_vectors = draw.standard_normal((9, width)).astype(np.float32)
    query_vectors[3] = 0
    documents = VectorSet(vectors)
    canonical = query_vectors.astype(np.float64) @ vectors.astype(np.float64).T
    engine = NumbaEngine(documents, in_row_order(400), 1.0, Plan())
    first_pass = engine.load(VectorSet(query_vectors)).rounded_pass()
    penalised = 0
    for begin in range(0, 400, 100):
        block, bound = first_pass.scores(begin, begin + 100)
        scores = block.numbers * block.units - block.penalties * block.weights[:, None]
        first = scores * block.query_units[:, None] + bound.shifts[:, None]
        distance = np.abs(first - canonical[:, begin : begin + 100])
        assert (distance <= bound.errors[:, None]).all()
        assert (bound.errors <= 0.1 * np.linalg.norm(query_vectors, axis=1) * first_pass.longest + 1e-9).all()
        assert (block.penalties >= 0).all()
        penalised += int((block.penalties > 0).sum())
    assert penalised > 300


def test_vectors_in_int8_are_whole_numbers_of_their_units() -> None:
    vectors = np.asarray([[127, -63.5, 0.4, 0.6], [0, 0, 0, 0], [-2, 1, 2, 0.5]], np.float32)
    rounded = Rounded.empty(4, 4)
    round_to_int8(vectors, np.zeros(4, np.float32), rounded, 1)
    assert rounded.numbers[1:].tolist() == [[127, -64, 0, 1], [0, 0, 0, 0], [-127, 64, 127, 32]]
    assert rounded.units[1:].tolist() == pytest.approx([1, 0, 2 / 127])
    errors = vectors - rounded.numbers[1:] * rounded.units[1:, None]
    assert rounded.lost[1:] == pytest.approx(np.linalg.norm(errors, axis=1), rel=1e-4)
    assert rounded.lengths[1:] == pytest.approx(np.linalg.norm(vectors - errors, axis=1))


def large_search() -> tuple[TopK, TopK]:
    """Return the best 20 of 40,000 documents for 70 queries, and the expected ones, of 64-bit products."""
    draw = np.random.default_rng(14)
    documents = draw.integers(-9, 10, (40_000, 16)).astype(np.float32)
    queries = draw.integers(-9, 10, (70, 16)).astype(np.float32)
    tie_ranks = draw_tie_ranks(draw, 40_000)
    best = search_all(VectorSet(queries), VectorSet(documents), 20, tie_ranks, 1.0, Plan(first="rounded"))
    return best, expected(queries @ documents.T, tie_ranks, 20)


@pytest.mark.parametrize("rank", [None, 1, 2000])
def test_a_guess_changes_no_result(rank: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of 4,096 documents is too high a guess for most queries, which are then searched without it."""
    passes = []
    fill = NumbaEngine._fill

    def counted(engine: NumbaEngine, *arguments: Any) -> None:
        passes.append(len(engine.documents))
        fill(engine, *arguments)

    monkeypatch.setattr(NumbaEngine, "_fill", counted)
    if rank is not None:
        monkeypatch.setattr(numba_engine, "_sampled_rank", lambda depth, documents: rank)
    best, expected_best = large_search()
    assert_same(best, expected_best)
    repeated = [40_000] if rank == 1 else []
    assert passes == [4096, 40_000, *repeated]


def test_a_sampled_document_is_rarely_among_the_best() -> None:
    """Of a million draws of the number of the best 100 of 100,000 in a sample, at most five reach the rank."""
    draw = np.random.default_rng(15)
    sampled = draw.hypergeometric(100, 99_900, 4096, 1_000_000)
    rank = numba_engine._sampled_rank(100, 100_000)
    assert rank < 25
    assert (sampled >= rank).sum() <= 5
