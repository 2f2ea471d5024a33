"""BM25 is what the bm25s library says, ranked as everything is."""

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


def written(folder: Path, documents: list[tuple[str, str]], queries: list[str]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{row}", "title": title, "text": text} for row, (title, text) in enumerate(documents)]
    tiny.write_lines(folder / "corpus.jsonl", corpus)
    tiny.write_lines(folder / "queries.jsonl", [{"_id": f"q{row}", "text": text} for row, text in enumerate(queries)])
    judged = "".join(f"q{row}\td0\t1\n" for row in range(len(queries)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def bm25(folder: Path, store: Path, depth: int, **settings: Any) -> Path:
    finetune = Finetune(**works.BUDGET, reading=Reading(titles=settings.pop("titles", True)))
    track = works.experiment(evaluate=Evaluate(("unused",), depth=depth), finetune=replace(finetune, queries="x")).track
    on = Experiment(track, Baseline("bm25", "bm25", Bm25(**settings)), 0)
    work = works.work(store, str(folder), on=on)
    return search_bm25(work, str(folder)).path


@pytest.mark.parametrize(("titles", "settings"), [(True, {}), (False, {}), (True, {"k1": 0.9, "b": 0.4})])
def test_bm25_scores_are_bm25s_own(titles: bool, settings: dict[str, float], tmp_path: Path) -> None:
    import bm25s

    draw = random.Random(4)
    documents = [(draw.choice(WORDS), " ".join(draw.choices(WORDS, k=draw.randrange(1, 12)))) for _ in range(30)]
    queries = [" ".join(draw.choices([*WORDS, "unheard"], k=draw.randrange(1, 5))) for _ in range(20)] + ["cat cat"]
    run = bm25(written(tmp_path / "data", documents, queries), tmp_path / "store", 10, titles=titles, **settings)
    rows, scores = np.load(run / "rows.npy"), np.load(run / "scores.npy")

    index = bm25s.BM25(method="lucene", **{"k1": 1.5, "b": 0.75, **settings})
    texts = [f"{title} {text}" if titles else text for title, text in documents]
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(queries, stopwords="en", show_progress=False)
    theirs = index.retrieve(asked, k=30, show_progress=False)
    exact = np.zeros((21, 30), np.float32)
    np.put_along_axis(exact, theirs.documents.astype(np.int64), theirs.scores, 1)
    ids = [f"d{row}" for row in range(30)]
    for of, found in zip(exact, rows.tolist(), strict=True):
        assert found == sorted(range(30), key=lambda row: (of[row], ids[row].encode()), reverse=True)[:10]
    assert scores.tolist() == np.take_along_axis(exact, rows, 1).tolist() and scores.max() > 0


def test_bm25_ranks_all_documents_for_words_nobody_wrote(tmp_path: Path) -> None:
    """All scores are zero, and the order that of the ids as bytes: d9 before d10."""
    data = written(tmp_path / "data", [("", "cat dog")] * 11, ["unheard words", "the of", "", "!"])
    run = bm25(data, tmp_path / "store", 1000)
    ids = json.loads((run / "names.json").read_text())["documents"]
    ranked = [[ids[row] for row in rows] for rows in np.load(run / "rows.npy")]
    assert ranked == [["d9", "d8", "d7", "d6", "d5", "d4", "d3", "d2", "d10", "d1", "d0"]] * 4
    assert not np.load(run / "scores.npy").any()


def test_bm25_drops_own_documents_by_the_datasets_rule(tmp_path: Path) -> None:
    documents = [("", "cat dog"), ("", "cat"), ("", "bird")]
    data = written(tmp_path / "data", documents, ["cat dog", "cat", "fish"])
    corpus = (data / "corpus.jsonl").read_text().replace('"d', '"q')
    (data / "corpus.jsonl").write_text(corpus)
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tq1\t1\nq1\tq0\t1\nq2\tq0\t1\n")
    kept = read_run(bm25(data, tmp_path / "store", 2))[2]
    (data / "dataset.toml").write_text("drop_self = true\n")
    dropped = read_run(bm25(data, tmp_path / "store", 2))[2]
    assert kept.rows.tolist() == [[0, 1], [1, 0], [2, 1]] and kept.self_hits == 0
    assert dropped.rows.tolist() == [[1, 2], [0, 2], [1, 0]] and dropped.self_hits == 3
