"""The benchmarks of search and merging: their peers do what the libraries do, and sides that differ are told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beir.retrieval.search.dense import DenseRetrievalExactSearch

from retrobench.bench import BENCHMARKS, bench, scale_search
from retrobench.bench import merge as merging
from retrobench.bench import search as searching
from retrobench.bench.frame import Setting, UnequalError
from retrobench.bench.peers.heap import heap_merge
from retrobench.retrieval.nearest import VectorSet, merge, search

SMOKE = Setting("cpu", smoke=True)


class Told:
    """A model that gives each text, its number, the vector of that number."""

    def __init__(self, queries: np.ndarray, documents: np.ndarray) -> None:
        self.queries, self.documents = queries, documents

    def encode_queries(self, texts: list[str], **unused: Any) -> np.ndarray:
        return self.queries[[int(text) for text in texts]]

    def encode_corpus(self, texts: list[dict[str, str]], **unused: Any) -> np.ndarray:
        return self.documents[[int(text["text"]) for text in texts]]


def test_the_heap_is_beirs() -> None:
    """Its own search in chunks of 25 of 100 documents, beside ours of the same chunks merged by the heap and by us."""
    draw = np.random.default_rng(0)
    queries, documents = (draw.standard_normal((rows, 12)).astype(np.float32) for rows in (7, 100))
    corpus = {f"d{row:03}": {"title": "", "text": str(row)} for row in range(100)}
    theirs = DenseRetrievalExactSearch(Told(queries, documents), corpus_chunk_size=25, show_progress_bar=False)
    hits = theirs.search(corpus, {f"q{row}": str(row) for row in range(7)}, 10, "dot")
    names = sorted(corpus, key=lambda name: len(corpus[name]["text"]), reverse=True)  # beir's order of the documents
    tie_ranks, asked = np.arange(100, dtype=np.int32), VectorSet(queries)
    order = [int(corpus[name]["text"]) for name in names]
    among = VectorSet(documents[order])
    parts = [next(search(asked, among.slice(at, at + 25), 10, tie_ranks[at : at + 25])) for at in range(0, 100, 25)]
    ours = heap_merge(parts, names, 10)
    rows, _ = merge(parts, tie_ranks, 10)
    for query in range(7):
        assert ours[query] == pytest.approx(hits[f"q{query}"], abs=1e-5)
        assert {names[row] for row in rows[query]} == set(hits[f"q{query}"])


@pytest.mark.parametrize("module", [searching, merging])
def test_cases_agree_and_have_names_of_their_own(module: Any) -> None:
    found = list(module.cases(SMOKE))
    assert len({case.name for case in found}) == len(found) > 1
    for case in found[:: max(1, len(found) // 3)]:
        assert "same" in case.check() or "recall 1.0000" in case.check()
        assert case.ours() > 0 and case.peer() > 0


def test_sides_that_differ_are_not_timed() -> None:
    rows, scores = np.asarray([[0, 1, 2]]), np.asarray([[3, 2, 1]], np.float32)
    assert searching._agree((rows, scores), (rows, scores)).startswith("recall 1.0000")
    with pytest.raises(UnequalError, match=r"Scores of the same ranks are 0\.01 apart"):
        searching._agree((rows, scores), (rows, scores + np.float32(0.01)))
    with pytest.raises(UnequalError, match=r"Only 0\.6667 of the documents are the peer's"):
        searching._agree((rows, scores), (np.asarray([[0, 1, 3]]), scores))


def test_memory_of_a_search_is_bounded_or_told_of() -> None:
    sizes = (100_000, 1_000_000)
    assert "300 MB for 100,000 rows" in scale_search._check_memory([300_000_000, 400_000_000], sizes)
    for large in (450_000_000, 1_600_000_000):
        with pytest.raises(UnequalError, match=r"more than 1\.5 GB, or it grows by more than the ids"):
            scale_search._check_memory([300_000_000, large], sizes)


def test_memory_of_a_search_is_watched_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `retrobench bench` does: this process holds whatever earlier tests left in it."""
    monkeypatch.setitem(BENCHMARKS, "scale-search", "scale_search:cases")
    file = tmp_path / "out.json"
    assert bench(["scale-search"], device="cpu", smoke=True, json_file=file).exit_code == 0
    [result] = json.loads(file.read_text())
    assert "for 200,000 rows, the ids among it" in result["equal"]
    assert result["ours"] > 0
