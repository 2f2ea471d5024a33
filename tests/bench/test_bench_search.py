"""The benchmarks of search and merging: peers are the libraries' algorithms, and sides that differ are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beir.retrieval.search.dense import DenseRetrievalExactSearch

from retrobench.bench import BENCHMARKS, bench
from retrobench.bench.benchmarks import merge as merging
from retrobench.bench.benchmarks import scale_search
from retrobench.bench.benchmarks import search as searching
from retrobench.bench.frame import UnequalError
from retrobench.bench.peers.heap import heap_merge
from retrobench.bench.setting import Setting
from retrobench.retrieval.nearest import VectorSet, merge, search

SMOKE = Setting("cpu", smoke=True)


class NumberedTexts:
    """A model whose texts are numbers: the vector of a text is the row of that number."""

    def __init__(self, queries: np.ndarray, documents: np.ndarray) -> None:
        self.queries = queries
        self.documents = documents

    def encode_queries(self, texts: list[str], **unused: Any) -> np.ndarray:
        rows = [int(text) for text in texts]
        return self.queries[rows]

    def encode_corpus(self, passages: list[dict[str, str]], **unused: Any) -> np.ndarray:
        rows = [int(passage["text"]) for passage in passages]
        return self.documents[rows]


def search_with_beir(queries: np.ndarray, documents: np.ndarray) -> dict[str, dict[str, float]]:
    """Return beir's ten hits of each query, q0, q1, ..., among d00, d01, ..., in chunks of 25 documents."""
    query_texts = {f"q{row}": str(row) for row in range(len(queries))}
    corpus = {f"d{row:02}": {"title": "", "text": f"{row:02}"} for row in range(len(documents))}
    model = NumberedTexts(queries, documents)
    beir = DenseRetrievalExactSearch(model, corpus_chunk_size=25, show_progress_bar=False)
    hits: dict[str, dict[str, float]] = beir.search(corpus, query_texts, 10, "dot")
    return hits


def test_the_heap_is_beirs() -> None:
    """beir's own search by chunks equals ours of the same chunks, merged by the heap and by our merge."""
    draw = np.random.default_rng(0)
    queries = draw.standard_normal((7, 12)).astype(np.float32)
    documents = draw.standard_normal((100, 12)).astype(np.float32)
    expected = search_with_beir(queries, documents)
    tie_ranks = np.arange(100, dtype=np.int32)
    chunks = []
    for first in range(0, 100, 25):
        chunk = VectorSet(documents).slice(first, first + 25)
        chunk_ranks = tie_ranks[first : first + 25]
        chunks.append(next(search(VectorSet(queries), chunk, 10, chunk_ranks)))
    ids = [f"d{row:02}" for row in range(100)]
    by_heap = heap_merge(chunks, ids, 10)
    rows, _ = merge(chunks, tie_ranks, 10)
    for query in range(7):
        expected_hits = expected[f"q{query}"]
        merged_ids = {ids[row] for row in rows[query]}
        assert by_heap[query] == pytest.approx(expected_hits, abs=1e-5)
        assert merged_ids == set(expected_hits)


@pytest.mark.parametrize("module", [searching, merging])
def test_cases_agree_and_have_names_of_their_own(module: Any) -> None:
    cases = list(module.cases(SMOKE))
    names = {case.name for case in cases}
    assert len(names) == len(cases) > 1
    step = max(1, len(cases) // 3)  # about three cases
    for case in cases[::step]:
        report = case.check()
        assert "same" in report or "recall 1.0000" in report
        assert case.ours() > 0
        assert case.peer() > 0


def test_sides_that_differ_are_not_timed() -> None:
    rows = np.asarray([[0, 1, 2]])
    scores = np.asarray([[3, 2, 1]], np.float32)
    assert searching._agree((rows, scores), (rows, scores)).startswith("recall 1.0000")
    higher_scores = scores + np.float32(0.01)
    with pytest.raises(UnequalError, match=r"Scores of the same ranks are 0\.01 apart"):
        searching._agree((rows, scores), (rows, higher_scores))
    different_rows = np.asarray([[0, 1, 3]])
    with pytest.raises(UnequalError, match=r"Only 0\.6667 of the documents are the peer's"):
        searching._agree((rows, scores), (different_rows, scores))


def test_memory_of_a_search_is_bounded() -> None:
    sizes = (100_000, 1_000_000)
    report = scale_search._check_memory([300_000_000, 400_000_000], sizes)
    assert "300 MB for 100,000 rows" in report
    for large in (450_000_000, 1_600_000_000):
        with pytest.raises(UnequalError, match=r"more than 1\.5 GB, or it grows by more than the ids"):
            scale_search._check_memory([300_000_000, large], sizes)


@pytest.mark.slow
def test_memory_of_a_search_is_watched_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `retrobench bench` does: this process holds whatever earlier tests left in it."""
    monkeypatch.setitem(BENCHMARKS, "scale-search", "scale_search:cases")
    file = tmp_path / "out.json"
    benched = bench(["scale-search"], device="cpu", smoke=True, json_file=file)
    assert benched.exit_code == 0
    [result] = json.loads(file.read_text())
    assert "for 200,000 rows, the ids among it" in result["equal"]
    assert result["ours"] > 0


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel alone has no faiss: which of its builds is right depends on the machine."""
    all_names = {case.name for case in searching.cases(SMOKE)}
    monkeypatch.setattr(searching, "find_spec", lambda name: None)
    names = {case.name for case in searching.cases(SMOKE)}
    left_out = all_names - names
    assert len(left_out) == 6
    assert all("faiss" in name or "one query" in name for name in left_out)
