"""Search is exact: both engines and BM25 against plain products, ties and short collections included."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import tiny
import torch

from retrobench import ranking
from retrobench.errors import RetrobenchError
from retrobench.experiment import (
    Bm25,
    Entrant,
    Evaluate,
    Experiment,
    Finetune,
    Model,
    Pretrain,
    Representations,
    Track,
)
from retrobench.measures import measure
from retrobench.representation import Encoder, Vectors, keep_largest
from retrobench.stages import lexical, search
from retrobench.stages.mine import exclude
from retrobench.stages.search import blocks, write_run
from retrobench.stages.start import load_backbone, load_tokenizer
from retrobench.store import Artifact, Store
from retrobench_bert import Bert

stage: ModuleType = import_module("retrobench.stages.search")  # the package's own `search` is the function

SCALE = 0.5


def naive(scores: np.ndarray, ids: list[str], depth: int) -> list[list[int]]:
    return [
        sorted(range(len(ids)), key=lambda row: (of[row], ids[row].encode()), reverse=True)[:depth] for of in scores
    ]


def whole(draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Small whole numbers: their products are exact in any order of summing, and often equal."""
    return draw.integers(-2, 3, shape).astype(np.float32)


def lay(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def hits(queries: Path, passages: Path, ids: list[str], depth: int) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = zip(*blocks(queries, passages, ids, depth, SCALE), strict=True)
    assert all(part.dtype == np.int32 for part in rows)
    return np.concatenate(rows), np.concatenate(scores)


# Sizes: queries, documents, depth. Over 256 queries are scored in more than one block.
SIZES = [(1, 1, 1), (1, 40, 5), (3, 5, 1000), (7, 40, 39), (7, 40, 40), (30, 120, 10), (300, 50, 7)]


def random_ids(count: int) -> list[str]:
    return random.Random(count).sample([f"{prefix}{n}" for n in range(60) for prefix in ("d", "é")], count)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("queries", "documents", "depth"), SIZES)
def test_dense_equals_a_plain_sort(queries: int, documents: int, depth: int, seed: int, tmp_path: Path) -> None:
    """Two dimensions of five values: most scores are shared, at the cut too, and half the documents are duplicates."""
    draw = np.random.default_rng(seed)
    vectors, asked, ids = whole(draw, documents, 2), whole(draw, queries, 2), random_ids(documents)
    vectors[documents // 2 :] = vectors[: documents - documents // 2]
    rows, scores = hits(lay(tmp_path / "q", dense=asked), lay(tmp_path / "p", dense=vectors), ids, depth)
    exact = asked @ vectors.T
    assert rows.tolist() == naive(exact, ids, depth)
    assert scores.tolist() == np.take_along_axis(exact, rows, 1).tolist()


def test_dense_with_every_score_its_own(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((500, 64), np.float32)
    asked = draw.standard_normal((20, 64), np.float32)
    ids = [str(row) for row in range(500)]
    rows, scores = hits(lay(tmp_path / "q", dense=asked), lay(tmp_path / "p", dense=vectors), ids, 100)
    exact = asked.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_allclose(scores, -np.sort(-exact)[:, :100], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores) <= 0).all() and all(len(set(of)) == 100 for of in rows.tolist())


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("block", "part"), [(256, 2**16), (4, 7), (1, 1)])
@pytest.mark.parametrize(("queries", "documents", "depth"), SIZES[:-1])
def test_terms_equal_the_dense_product(
    queries: int,
    documents: int,
    depth: int,
    block: int,
    part: int,
    dense: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However queries and documents are cut into blocks."""
    monkeypatch.setattr(stage, "QUERIES", block)
    monkeypatch.setattr(stage, "DOCUMENTS", part)
    draw = np.random.default_rng(documents)
    ids, kept, words = random_ids(documents), 3, 12
    columns = np.stack([draw.permutation(words)[:kept] for _ in range(documents)]).astype(np.int32)
    weights, terms = whole(draw, documents, kept), whole(draw, queries, words)
    vectors, asked = whole(draw, documents, 2), whole(draw, queries, 2)
    half = documents // 2
    for array in (columns, weights, vectors):  # duplicates, which end up in different blocks
        array[half : 2 * half] = array[:half]
    matrix = np.zeros((documents, words), np.float32)
    np.put_along_axis(matrix, columns, weights, 1)
    exact = SCALE * (terms @ matrix.T) + (asked @ vectors.T if dense else 0)

    both = ({"dense": asked}, {"dense": vectors}) if dense else ({}, {})
    of_queries = lay(tmp_path / "q", terms=terms, **both[0])
    of_passages = lay(tmp_path / "p", term_ids=columns, term_weights=weights, **both[1])
    rows, scores = hits(of_queries, of_passages, ids, depth)
    assert rows.tolist() == naive(exact, ids, depth)
    assert scores.tolist() == np.take_along_axis(exact, rows, 1).tolist()


@pytest.mark.parametrize("part", [1, 7, 15, 100])
def test_terms_that_all_documents_share(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every score is equal, so the ids alone say which documents of a block go on."""
    monkeypatch.setattr(stage, "DOCUMENTS", part)
    queries = lay(tmp_path / "q", terms=np.ones((2, 4), np.float32))
    shared = {"term_ids": np.zeros((40, 1), np.int32), "term_weights": np.ones((40, 1), np.float32)}
    rows, scores = hits(queries, lay(tmp_path / "p", **shared), random_ids(40), 5)
    assert rows.tolist() == naive(np.ones((2, 40)), random_ids(40), 5) and (scores == SCALE).all()


def test_an_id_used_twice_is_refused(tmp_path: Path) -> None:
    one = np.ones((1, 2), np.float32)
    queries, passages = lay(tmp_path / "q", dense=one), lay(tmp_path / "p", dense=np.ones((3, 2), np.float32))
    with pytest.raises(RetrobenchError, match=r"^The collection holds a document id twice; .* Mend its file\.$"):
        blocks(queries, passages, ["a", "b", "a"], 2, SCALE)


def test_mined_negatives_are_nobodys_answers() -> None:
    """A query's own positives go first, and only of the rest are some skipped."""
    ranked = np.asarray([[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]])
    positives = [np.asarray([4, 2]), np.asarray([7])]
    assert exclude(ranked, positives, skip=0, depth=2).tolist() == [[3, 1], [0, 1]]
    assert exclude(ranked, positives, skip=1, depth=4).tolist() == [[1, 0, -1, -1], [1, 2, 3, 4]]


# The run file


RANX = """
import json, sys, ranx
run = ranx.Run.from_file(sys.argv[1], kind="trec")
ranx.evaluate(ranx.Qrels.from_file(sys.argv[2], kind="trec"), run, ["ndcg@10", "mrr", "recall@10", "map"])
print(json.dumps({name: dict(of) for name, of in run.scores.items()}))
"""


def test_a_run_reads_elsewhere_and_measures_the_same(tmp_path: Path) -> None:
    """By ranx and by trec_eval, from the file alone."""
    draw = np.random.default_rng(3)
    ids, queries = [f"d{row}" for row in range(40)], [f"q{row}" for row in range(25)]
    rows, scores = ranking.top(draw.standard_normal((25, 40), np.float32), 20, ranking.precedence(ids))
    write_run(tmp_path, queries, ids, rows, scores, "an entrant  of 100%")
    first = (tmp_path / "run.trec").read_text().splitlines()[0].split(" ")
    assert first == ["q0", "Q0", ids[rows[0, 0]], "1", f"{scores[0, 0]:.9g}", "anentrantof100%"]
    qrels = {query: {str(d): int(draw.integers(0, 4)) for d in draw.choice(ids, 8, replace=False)} for query in queries}
    judged = "".join(f"{query} 0 {d} {grade}\n" for query, of in qrels.items() for d, grade in of.items())
    (tmp_path / "qrels.trec").write_text(judged)
    ours = measure(queries, rows, ids, qrels, ["nDCG@10", "RR", "Recall@10", "MAP"])

    # Interpreted, since compiling what ranx does with files would take it a minute.
    command = [sys.executable, "-c", RANX, str(tmp_path / "run.trec"), str(tmp_path / "qrels.trec")]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    theirs = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    for name, text in {"nDCG@10": "ndcg@10", "RR": "mrr", "Recall@10": "recall@10", "MAP": "map"}.items():
        assert ours[name] == pytest.approx(theirs[text], abs=1e-9)

    with (tmp_path / "run.trec").open() as file:
        parsed = pytrec_eval.parse_run(file)
    assert {query: len(of) for query, of in parsed.items()} == dict.fromkeys(queries, 20)
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recip_rank", "recall.10", "map"}).evaluate(parsed)
    for name, text in {"nDCG@10": "ndcg_cut_10", "RR": "recip_rank", "Recall@10": "recall_10", "MAP": "map"}.items():
        assert ours[name] == pytest.approx({query: of[text] for query, of in found.items()}, abs=1e-9)


def test_a_run_keeps_every_bit_of_a_score(tmp_path: Path) -> None:
    scores = -np.sort(-np.random.default_rng(0).standard_normal((2, 500)).astype(np.float32) * 1e3)
    rows = np.tile(np.arange(500), (2, 1))
    write_run(tmp_path, ["q 1", "é"], [f"d{row}" for row in range(500)], rows, scores, "x")
    lines = (tmp_path / "run.trec").read_text(encoding="utf-8").splitlines()
    assert np.asarray([line.split()[-2] for line in lines], np.float32).reshape(2, 500).tolist() == scores.tolist()
    assert np.array_equal(np.load(tmp_path / "scores.npy"), scores)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), rows)
    assert json.loads((tmp_path / "names.json").read_text())["queries"] == ["q 1", "é"]


# The stage, on a random encoder


def experiment(made: tiny.Tiny, entrant: Entrant, **sizes: Any) -> Experiment:
    budget: dict[str, Any] = {"steps": 1, "batch": 2, "learning_rate": 1e-3, "precision": "fp32"}
    finetune = Finetune(**budget, queries="unused", query_length=12, passage_length=40)
    track = Track("tiny", Model(str(made.base)), Pretrain(**budget), finetune, Evaluate(("unused",)))
    return Experiment(replace(track, representation=Representations(**sizes)), entrant, 0)


@pytest.mark.parametrize("representation", ["cls", "mean", "terms", "cls+terms"])
def test_the_stage_ranks_by_the_representations_own_similarity(representation: str, tmp_path: Path) -> None:
    made = tiny.make(tmp_path)
    x = experiment(made, Entrant("tiny", Bert(), representation), dense=8, terms=6, activation="raw", scale=SCALE)
    backbone, _ = load_backbone(made.base)
    torch.manual_seed(2)
    for name, parameter in backbone.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.3)
    encoder = Encoder(backbone, representation, x.track.representation).eval()
    folder = tmp_path / "encoder"
    folder.mkdir()
    encoder.save(folder, load_tokenizer(made.base), 40)
    store, dataset = Store(made.store), f"{made.data}:test"
    run = search(x, store, Artifact("finetune", "0" * 20, folder, True, {}), dataset, 1000)
    assert run.cost["queries"] == 15 and run.cost["documents"] == tiny.DOCUMENTS

    names = json.loads((run.path / "names.json").read_text())
    assert names["queries"] == [f"q{row}" for row in tiny.SPLITS["test"]]
    embedded = [artifact for artifact in store.used if artifact.stage == "encode"]
    assert [artifact.cost["texts"] for artifact in embedded] == [tiny.DOCUMENTS, 15]
    scores = encoder.similarity(load(embedded[1].path), load(embedded[0].path, tiny.tokenizer())).numpy()
    rows, kept = np.load(run.path / "rows.npy"), np.load(run.path / "scores.npy")
    assert rows.shape == (15, tiny.DOCUMENTS), "as many as there are, not as many as were asked for"
    np.testing.assert_allclose(kept, np.take_along_axis(scores, rows, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(kept) <= 0).all() and all(sorted(of) == list(range(tiny.DOCUMENTS)) for of in rows.tolist())


def load(folder: Path, words: Any = None) -> Vectors:
    """The vectors of an encode stage, terms written out over the whole vocabulary."""
    dense = torch.from_numpy(np.load(folder / "dense.npy")) if (folder / "dense.npy").exists() else None
    if (folder / "terms.npy").exists():
        return Vectors(dense, torch.from_numpy(np.load(folder / "terms.npy")))
    if not (folder / "term_ids.npy").exists():
        return Vectors(dense, None)
    columns, weights = (torch.from_numpy(np.load(folder / f"term_{name}.npy")) for name in ("ids", "weights"))
    # What was not kept may not be kept again: no raw logit is as small as this.
    terms = torch.full((len(columns), len(words) + 3), -1e9).scatter(1, columns.long(), weights)
    assert torch.equal(keep_largest(terms, columns.shape[1]).values, weights)
    return Vectors(dense, terms)


# BM25


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
    budget: dict[str, Any] = {"steps": 1, "batch": 2, "learning_rate": 1e-3}
    titles = settings.pop("titles", True)
    finetune, evaluate = Finetune(**budget, titles=titles), Evaluate(("unused",))
    track = Track("tiny", Model("unused"), Pretrain(**budget), finetune, evaluate)
    x = Experiment(track, Entrant("bm25", Bm25(**settings), "bm25"), 0)
    return lexical(x, Store(store), str(folder), depth).path


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
    assert rows.tolist() == naive(exact, ids, 10)
    assert scores.tolist() == np.take_along_axis(exact, rows, 1).tolist() and scores.max() > 0


def test_bm25_ranks_all_documents_for_words_nobody_wrote(tmp_path: Path) -> None:
    """All scores are zero, and the order that of the ids as bytes: d9 before d10."""
    data = written(tmp_path / "data", [("", "cat dog")] * 11, ["unheard words", "the of", "", "!"])
    run = bm25(data, tmp_path / "store", 1000)
    ids = json.loads((run / "names.json").read_text())["documents"]
    ranked = [[ids[row] for row in rows] for rows in np.load(run / "rows.npy")]
    assert ranked == [["d9", "d8", "d7", "d6", "d5", "d4", "d3", "d2", "d10", "d1", "d0"]] * 4
    assert not np.load(run / "scores.npy").any()
