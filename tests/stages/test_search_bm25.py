"""BM25 has the scores of the bm25s library and the ranking of every search."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import works
from folders import write_folder

from retrobench.config import Baseline, Bm25, Experiment, Finetune, Reading, read_entrant
from retrobench.config.track import Evaluate
from retrobench.data import load
from retrobench.errors import RetrobenchError
from retrobench.retrieval import search_facts
from retrobench.scoring import score_hits
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


def bm25(folder: Path, store: Path, depth: int, titles: Any = True, **settings: Any) -> Path:
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
    lengths = set()
    for query_scores, query_rows, hit_scores in zip(expected, rows, scores, strict=True):
        # Ties go to the larger id, compared as bytes. A document without a word of the query is no hit.
        order = sorted(range(30), key=lambda row: (query_scores[row], f"d{row}".encode()), reverse=True)
        hits = [row for row in order if query_scores[row] > 0][:10]
        assert query_rows[query_rows >= 0].tolist() == hits
        assert hit_scores[query_rows >= 0].tolist() == query_scores[hits].tolist()
        lengths.add(len(hits))
    assert {0, 10} < lengths


def scores_of_library(texts: list[str], queries: list[str], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """Return the scores of bm25s, [Q, N]."""
    import bm25s
    import Stemmer

    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    stemmer = Stemmer.Stemmer("english")
    document_tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    index.index(document_tokens, show_progress=False)
    query_tokens = bm25s.tokenize(queries, stopwords="en", stemmer=stemmer, show_progress=False)
    results = index.retrieve(query_tokens, k=len(texts), show_progress=False)
    scores = np.zeros((len(queries), len(texts)), np.float32)
    np.put_along_axis(scores, results.documents.astype(np.int64), results.scores, 1)
    return scores


def test_a_query_without_known_words_is_missing_and_counts_0(tmp_path: Path) -> None:
    documents = [("", "cat dog")] * 11
    data = write(tmp_path / "data", documents, ["unheard words", "the of", "", "!", "cat"])
    run = bm25(data, tmp_path / "store", 1000)
    query_ids, ids, ranked = read_run(run)
    assert (ranked.rows[:4] == -1).all()
    assert ranked.rows.shape == (5, 11)
    assert {line.split()[0] for line in (run / "run.trec").read_text().splitlines()} == {"q4"}
    scored = score_hits("bm25", load(str(data)), query_ids, ids, ranked, ["MRR@10", "Recall@100"])
    assert scored.missing == 4
    assert scored.values["Recall@100"] == {"q0": 0, "q1": 0, "q2": 0, "q3": 0, "q4": 1}


@pytest.mark.parametrize(
    ("language", "settings", "stemmer", "stop_words", "hits"),
    [
        ("en", {}, "english", "english", [0, 1]),
        ("en", {"stemmer": "none"}, "none", "english", [0]),
        ("en", {"stemmer": "porter", "stop_words": "none"}, "porter", "none", [0, 1, 2]),
        ("de", {}, "german", "german", [0, 1, 2]),
        ("xx", {}, "none", "none", [0, 2]),
    ],
)
def test_words_follow_the_language_and_the_settings(
    language: str, settings: dict[str, str], stemmer: str, stop_words: str, hits: list[int], tmp_path: Path
) -> None:
    """The query is `the whales`; the documents are its words, its English stem, and its article."""
    data = write(tmp_path / "data", [("", "whales"), ("", "whale"), ("", "the")], ["the whales"])
    (data / "dataset.toml").write_text(f'language = "{language}"\n')
    run = bm25(data, tmp_path / "store", 10, **settings)
    _, _, ranked = read_run(run)
    assert sorted(row for row in ranked.rows[0].tolist() if row >= 0) == hits
    assert search_facts(run) == {"stemmer": stemmer, "stop_words": stop_words}
    recorded = json.loads((run / "entry.json").read_text())["settings"]
    assert (recorded["stemmer"], recorded["stop_words"]) == (stemmer, stop_words)
    assert ("PyStemmer" in recorded) == (stemmer != "none")


@pytest.mark.parametrize(("preset", "k1", "b"), [("lucene", 1.2, 0.75), ("anserini", 0.9, 0.4)])
def test_presets_of_lucene_and_anserini(preset: str, k1: float, b: float) -> None:
    entrant = read_entrant(f"bm25:{preset}", [], [])
    assert isinstance(entrant, Baseline)
    assert entrant.name == f"bm25:{preset}"
    assert entrant.settings == {"k1": k1, "b": b, "stemmer": "porter", "stop_words": "english"}
    changed = read_entrant(f"bm25:{preset}", [], ["objective.k1=2"])
    assert changed.name == f"bm25:{preset} (changed)"
    assert changed.settings["k1"] == 2


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("bm25:bm26", "objective.k1=1", r"bm25 preset 'bm26'.*anserini, lucene"),
        ("bm25", "objective.stemmer=englich", r"stemmer 'englich'.*'english'"),
        ("bm25", "objective.stop_words=klingon", r"stop_words 'klingon'.*english_plus"),
        ("bm25", "objective.b=2", r"b between 0 and 1, got 1\.5 and 2"),
    ],
)
def test_unknown_settings_of_bm25_are_refused(name: str, override: str, message: str) -> None:
    with pytest.raises(RetrobenchError, match=message):
        read_entrant(name, [], [override])


def test_bm25_drops_own_documents_by_the_datasets_rule(tmp_path: Path) -> None:
    data = tmp_path / "data"
    documents = [("q0", "", "cat dog"), ("q1", "", "cat"), ("q2", "", "bird")]
    queries = [("q0", "cat dog"), ("q1", "cat"), ("q2", "fish")]
    judgements = [("q0", "q1", 1), ("q1", "q0", 1), ("q2", "q0", 1)]
    write_folder(data, documents, queries, judgements)
    undropped = read_run(bm25(data, tmp_path / "store", 2))[2]
    (data / "dataset.toml").write_text("drop_self = true\n")
    dropped = read_run(bm25(data, tmp_path / "store", 2))[2]
    assert undropped.rows.tolist() == [[0, 1], [1, 0], [-1, -1]]
    assert undropped.self_hits == 0
    assert dropped.rows.tolist() == [[1, -1], [0, -1], [-1, -1]]
    assert dropped.self_hits == 2


def test_bm25_leaves_excluded_documents_out_before_the_cut(tmp_path: Path) -> None:
    """Grade -100 of BRIGHT: the two best documents go, and the relevant one is first."""
    data = tmp_path / "data"
    documents = [("a", "", "cat cat cat"), ("b", "", "cat cat dog"), ("c", "", "cat dog dog")]
    write_folder(data, documents, [("q", "cat")], [("q", "a", -100), ("q", "b", -100), ("q", "c", 1)])
    assert read_run(bm25(data, tmp_path / "store", 1))[2].rows.tolist() == [[0]]
    (data / "dataset.toml").write_text("excluded_grade = -100\n")
    ranked = read_run(bm25(data, tmp_path / "store", 1))[2]
    assert ranked.rows.tolist() == [[2]]
    assert ranked.excluded == 1
