"""BM25 has the scores of the bm25s library and the ranking of every search."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import works

from retrobench.config import Baseline, Bm25, Experiment, Finetune, Reading
from retrobench.config.track import Evaluate
from retrobench.scoring.runfiles import read_run
from retrobench.stages import search_bm25

WORDS = ["cat", "dog", "bird", "fish", "tree", "house", "river", "stone", "cloud", "the", "of"]


def write(folder: Path, documents: list[tuple[str, str]], queries: list[str]) -> Path:
    """Write a collection of titles and texts. The first document answers every query."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{row}", "title": title, "text": text} for row, (title, text) in enumerate(documents)]
    tiny.write_lines(folder / "corpus.jsonl", corpus)
    tiny.write_lines(folder / "queries.jsonl", [{"_id": f"q{row}", "text": text} for row, text in enumerate(queries)])
    judgements = "".join(f"q{row}\td0\t1\n" for row in range(len(queries)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgements)
    return folder


def bm25(folder: Path, store: Path, depth: int, **settings: Any) -> Path:
    finetune = Finetune(**works.BUDGET, reading=Reading(titles=settings.pop("titles", True)))
    track = works.experiment(evaluate=Evaluate(("unused",), depth=depth), finetune=replace(finetune, queries="x")).track
    experiment = Experiment(track, Baseline("bm25", "bm25", Bm25(**settings)), 0)
    work = works.work(store, str(folder), on=experiment)
    return search_bm25(work, str(folder)).path


@pytest.mark.parametrize(("titles", "settings"), [(True, {}), (False, {}), (True, {"k1": 0.9, "b": 0.4})])
def test_scores_are_those_of_bm25s(titles: bool, settings: dict[str, float], tmp_path: Path) -> None:
    draw = random.Random(4)
    documents = []
    for _ in range(30):
        title = draw.choice(WORDS)
        documents.append((title, " ".join(draw.choices(WORDS, k=draw.randrange(1, 12)))))
    queries = ["cat cat"]
    for _ in range(20):
        queries.append(" ".join(draw.choices([*WORDS, "unheard"], k=draw.randrange(1, 5))))
    data = write(tmp_path / "data", documents, queries)
    run = bm25(data, tmp_path / "store", 10, titles=titles, **settings)
    rows, scores = np.load(run / "rows.npy"), np.load(run / "scores.npy")

    texts = [f"{title} {text}" if titles else text for title, text in documents]
    expected = scores_of_library(texts, queries, **settings)
    for query_scores, query_rows in zip(expected, rows.tolist(), strict=True):
        # Ties go to the larger id, compared as bytes.
        order = sorted(range(30), key=lambda row: (query_scores[row], f"d{row}".encode()), reverse=True)
        assert query_rows == order[:10]
    assert scores.tolist() == np.take_along_axis(expected, rows, 1).tolist()
    assert scores.max() > 0


def scores_of_library(texts: list[str], queries: list[str], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """Return the scores of bm25s, [Q, N]."""
    import bm25s

    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    query_tokens = bm25s.tokenize(queries, stopwords="en", show_progress=False)
    results = index.retrieve(query_tokens, k=len(texts), show_progress=False)
    scores = np.zeros((len(queries), len(texts)), np.float32)
    np.put_along_axis(scores, results.documents.astype(np.int64), results.scores, 1)
    return scores


def test_a_query_without_known_words_ranks_all_documents(tmp_path: Path) -> None:
    """All scores are zero, so the ids as bytes decide: d9 before d10."""
    data = write(tmp_path / "data", [("", "cat dog")] * 11, ["unheard words", "the of", "", "!"])
    run = bm25(data, tmp_path / "store", 1000)
    ids = json.loads((run / "names.json").read_text())["documents"]
    ranked = [[ids[row] for row in rows] for rows in np.load(run / "rows.npy")]
    assert ranked == [["d9", "d8", "d7", "d6", "d5", "d4", "d3", "d2", "d10", "d1", "d0"]] * 4
    assert not np.load(run / "scores.npy").any()


def test_bm25_drops_own_documents_by_the_datasets_rule(tmp_path: Path) -> None:
    documents = [("", "cat dog"), ("", "cat"), ("", "bird")]
    data = write(tmp_path / "data", documents, ["cat dog", "cat", "fish"])
    corpus = (data / "corpus.jsonl").read_text().replace('"d', '"q')
    (data / "corpus.jsonl").write_text(corpus)
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tq1\t1\nq1\tq0\t1\nq2\tq0\t1\n")
    undropped = read_run(bm25(data, tmp_path / "store", 2))[2]
    (data / "dataset.toml").write_text("drop_self = true\n")
    dropped = read_run(bm25(data, tmp_path / "store", 2))[2]
    assert undropped.rows.tolist() == [[0, 1], [1, 0], [2, 1]] and undropped.self_hits == 0
    assert dropped.rows.tolist() == [[1, 2], [0, 2], [1, 0]] and dropped.self_hits == 3
