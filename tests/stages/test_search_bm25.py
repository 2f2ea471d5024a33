"""BM25 has the scores of the bm25s library and the ranking of every search."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import works
from folders import write_folder

from retrobench.config import Baseline, Bm25, Experiment, Finetune, Reading
from retrobench.config.track import Evaluate
from retrobench.scoring.runfiles import read_run
from retrobench.stages import search_bm25

WORDS = ["cat", "dog", "bird", "fish", "tree", "house", "river", "stone", "cloud", "the", "of"]


def write(folder: Path, documents: list[tuple[str, str]], queries: list[str]) -> Path:
    """Write a collection of titles and texts. The first document answers every query."""
    numbered_documents = [(f"d{row}", *document) for row, document in enumerate(documents)]
    numbered_queries = [(f"q{row}", query) for row, query in enumerate(queries)]
    judgements = [(query_id, "d0", 1) for query_id, _ in numbered_queries]
    write_folder(folder, numbered_documents, numbered_queries, judgements)
    return folder


def bm25(folder: Path, store: Path, depth: int, titles: bool = True, **settings: float) -> Path:
    """Search by BM25 and return the run's folder."""
    finetune = Finetune(**works.BUDGET, queries="unused", reading=Reading(titles=titles))
    evaluate = Evaluate(("unused",), depth=depth)
    track = works.experiment(evaluate=evaluate, finetune=finetune).track
    baseline = Baseline("bm25", "bm25", Bm25(**settings))
    work = works.work(store, str(folder), on=Experiment(track, baseline, 0))
    return search_bm25(work, str(folder)).path


@pytest.mark.parametrize(("titles", "settings"), [(True, {}), (False, {}), (True, {"k1": 0.9, "b": 0.4})])
def test_scores_are_those_of_bm25s(titles: bool, settings: dict[str, float], tmp_path: Path) -> None:
    draw = random.Random(4)
    documents = []
    for _ in range(30):
        title = draw.choice(WORDS)
        words = draw.choices(WORDS, k=draw.randrange(1, 12))
        documents.append((title, " ".join(words)))
    queries = ["cat cat"]
    for _ in range(20):
        words = draw.choices([*WORDS, "unheard"], k=draw.randrange(1, 5))
        queries.append(" ".join(words))
    data = write(tmp_path / "data", documents, queries)
    run = bm25(data, tmp_path / "store", 10, titles=titles, **settings)
    rows = np.load(run / "rows.npy")
    scores = np.load(run / "scores.npy")

    texts = [text for _, text in documents]
    if titles:
        texts = [f"{title} {text}" for title, text in documents]
    expected = scores_of_library(texts, queries, **settings)
    for query_scores, query_rows in zip(expected, rows.tolist(), strict=True):
        # Ties go to the larger id, compared as bytes.
        order = sorted(range(30), key=lambda row: (query_scores[row], f"d{row}".encode()), reverse=True)
        assert query_rows == order[:10]
    expected_scores = np.take_along_axis(expected, rows, 1)
    assert scores.tolist() == expected_scores.tolist()
    assert scores.max() > 0


def scores_of_library(texts: list[str], queries: list[str], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """Return the scores of bm25s, [Q, N]."""
    import bm25s

    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    document_tokens = bm25s.tokenize(texts, stopwords="en", show_progress=False)
    index.index(document_tokens, show_progress=False)
    query_tokens = bm25s.tokenize(queries, stopwords="en", show_progress=False)
    results = index.retrieve(query_tokens, k=len(texts), show_progress=False)
    scores = np.zeros((len(queries), len(texts)), np.float32)
    np.put_along_axis(scores, results.documents.astype(np.int64), results.scores, 1)
    return scores


def test_a_query_without_known_words_ranks_all_documents(tmp_path: Path) -> None:
    """All scores are zero, so the ids as bytes decide: d9 before d10."""
    documents = [("", "cat dog")] * 11
    data = write(tmp_path / "data", documents, ["unheard words", "the of", "", "!"])
    run = bm25(data, tmp_path / "store", 1000)
    names = json.loads((run / "names.json").read_text())
    document_ids = np.asarray(names["documents"])
    ranked_ids = document_ids[np.load(run / "rows.npy")]
    assert ranked_ids.tolist() == [["d9", "d8", "d7", "d6", "d5", "d4", "d3", "d2", "d10", "d1", "d0"]] * 4
    assert not np.load(run / "scores.npy").any()


def test_bm25_drops_own_documents_by_the_datasets_rule(tmp_path: Path) -> None:
    data = tmp_path / "data"
    documents = [("q0", "", "cat dog"), ("q1", "", "cat"), ("q2", "", "bird")]
    queries = [("q0", "cat dog"), ("q1", "cat"), ("q2", "fish")]
    judgements = [("q0", "q1", 1), ("q1", "q0", 1), ("q2", "q0", 1)]
    write_folder(data, documents, queries, judgements)
    undropped = read_run(bm25(data, tmp_path / "store", 2))[2]
    (data / "dataset.toml").write_text("drop_self = true\n")
    dropped = read_run(bm25(data, tmp_path / "store", 2))[2]
    assert undropped.rows.tolist() == [[0, 1], [1, 0], [2, 1]]
    assert undropped.self_hits == 0
    assert dropped.rows.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert dropped.self_hits == 3
