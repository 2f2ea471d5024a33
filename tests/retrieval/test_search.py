"""Search is exact: both engines and BM25 against plain products, ties and short collections included."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import tiny
import torch
import works
from laid import lay, ranked, sparse, written

from retrobench.config import Experiment, Reading, Representations
from retrobench.errors import RetrobenchError
from retrobench.model import encoder as representation
from retrobench.model.encoder import Encoder
from retrobench.model.loading import load_backbone, load_tokenizer
from retrobench.retrieval.searcher import Sought, retrieve, searched_how
from retrobench.retrieval.vectors import Vectors
from retrobench.scoring import ranking
from retrobench.scoring.measures import measure
from retrobench.scoring.runfiles import read_run, write_run
from retrobench.stages import encode, search
from retrobench.store import Artifact

SCALE = 0.5


def naive(scores: np.ndarray, ids: list[str], depth: int) -> list[list[int]]:
    return [
        sorted(range(len(ids)), key=lambda row: (of[row], ids[row].encode()), reverse=True)[:depth] for of in scores
    ]


def whole(draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Small whole numbers: their products are exact in any order of summing, and often equal."""
    return draw.integers(-2, 3, shape).astype(np.float32)


def hits(queries: Path, passages: Path, ids: list[str], depth: int) -> tuple[np.ndarray, np.ndarray]:
    names = [f"q{row}" for row in range(len(Vectors.open(queries)))]
    found = ranked(queries, passages, names, ids, depth, SCALE)
    assert found.rows.dtype == np.int32 and found.scores.dtype == np.float32
    return found.rows, found.scores


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
@pytest.mark.parametrize(("queries", "documents", "depth"), SIZES[:-1])
def test_terms_equal_the_dense_product(queries: int, documents: int, depth: int, dense: bool, tmp_path: Path) -> None:
    draw = np.random.default_rng(documents)
    ids, kept, words = random_ids(documents), 3, 12
    columns = np.stack([draw.permutation(words)[:kept] for _ in range(documents)]).astype(np.int32)
    weights, terms = whole(draw, documents, kept), whole(draw, queries, words)
    vectors, asked = whole(draw, documents, 2), whole(draw, queries, 2)
    half = documents // 2
    for array in (columns, weights, vectors):  # duplicates
        array[half : 2 * half] = array[:half]
    matrix = np.zeros((documents, words), np.float32)
    np.put_along_axis(matrix, columns, weights, 1)
    exact = SCALE * (terms @ matrix.T) + (asked @ vectors.T if dense else 0)

    of_queries = lay(tmp_path / "q", asked if dense else None, written(terms), words)
    of_passages = lay(tmp_path / "p", vectors if dense else None, sparse(columns, weights), words)
    rows, scores = hits(of_queries, of_passages, ids, depth)
    assert rows.tolist() == naive(exact, ids, depth)
    assert scores.tolist() == np.take_along_axis(exact, rows, 1).tolist()


def test_terms_that_all_documents_share(tmp_path: Path) -> None:
    """Every score is equal, so the ids alone say which documents go on."""
    queries = lay(tmp_path / "q", None, written(np.ones((2, 4), np.float32)), 4)
    shared = sparse(np.zeros((40, 1), np.int32), np.ones((40, 1), np.float32))
    rows, scores = hits(queries, lay(tmp_path / "p", None, shared, 4), random_ids(40), 5)
    assert rows.tolist() == naive(np.ones((2, 40)), random_ids(40), 5) and (scores == SCALE).all()


def test_an_id_used_twice_is_refused(tmp_path: Path) -> None:
    one = np.ones((1, 2), np.float32)
    queries, passages = lay(tmp_path / "q", dense=one), lay(tmp_path / "p", dense=np.ones((3, 2), np.float32))
    with pytest.raises(RetrobenchError, match=r"^The collection holds the document id 'a' twice; .* Mend the file\.$"):
        ranked(queries, passages, ["q"], ["a", "b", "a"], 2, SCALE)


def test_a_query_id_used_twice_is_refused(tmp_path: Path) -> None:
    queries, passages = (lay(tmp_path / name, dense=np.ones((2, 2), np.float32)) for name in "qp")
    with pytest.raises(RetrobenchError, match=r"^The queries hold the query id 'q' twice; .* Mend the file\.$"):
        ranked(queries, passages, ["q", "q"], ["a", "b"], 2)


# Self-hits, and what is no number


def folders(tmp_path: Path, terms: bool, asked: np.ndarray, vectors: np.ndarray) -> tuple[Path, Path]:
    """The same products [Q, N], once of dense vectors and once of terms."""
    if not terms:
        return lay(tmp_path / "q", dense=asked), lay(tmp_path / "p", dense=vectors)
    sides = ((asked, tmp_path / "q"), (vectors, tmp_path / "p"))
    left, right = (lay(folder, None, written(matrix), matrix.shape[1]) for matrix, folder in sides)
    return left, right


@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("depth", [1, 3, 19, 20, 100])
def test_own_documents_leave_where_the_rule_says_so(depth: int, terms: bool, tmp_path: Path) -> None:
    """One deeper and then cut: as a plain sort of all other documents. Most scores are shared."""
    draw = np.random.default_rng(depth)
    vectors, asked = whole(draw, 20, 2), whole(draw, 300, 2)
    ids, names = random_ids(20), [*random_ids(20)[::-1][:15], *(f"q{row}" for row in range(285))]
    queries, passages = folders(tmp_path, terms, asked, vectors)
    kept = ranked(queries, passages, names, ids, depth)
    dropped = ranked(queries, passages, names, ids, depth, drop_self=True)
    everything = naive(asked @ vectors.T, ids, 20)
    assert kept.rows.tolist() == [rows[:depth] for rows in everything]
    expected = [[row for row in rows if ids[row] != name][:depth] for name, rows in zip(names, everything, strict=True)]
    assert [[row for row in rows if row >= 0] for rows in dropped.rows.tolist()] == expected
    pairs = zip(names, everything, strict=True)
    assert dropped.self_hits == sum(name in [ids[row] for row in rows[:depth]] for name, rows in pairs)
    assert dropped.self_hits > 0 == kept.self_hits
    assert dropped.rows.shape == (300, min(depth, 20))


@pytest.mark.parametrize("terms", [False, True])
def test_nothing_to_ask_and_nothing_to_find(terms: bool, tmp_path: Path) -> None:
    queries, passages = folders(tmp_path, terms, np.ones((2, 2), np.float32), np.ones((3, 2), np.float32))
    empty = lay(tmp_path / "empty", np.zeros((0, 2), np.float32))
    told: list[int] = []
    assert ranked(empty, passages, [], ["a", "b", "c"], 5, advance=told.append).rows.shape == (0, 0)
    assert ranked(queries, empty, ["q1", "q2"], [], 5, drop_self=True, advance=told.append).rows.shape == (2, 0)
    assert told == []
    assert ranked(queries, passages, ["q1", "q2"], ["a", "b", "c"], 5, advance=told.append).ties == 4
    assert told == [2]


@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e15])
def test_a_vector_that_is_not_finite_is_named(value: float, terms: bool, tmp_path: Path) -> None:
    """A NaN document is never found by faiss, a NaN query finds nothing: both would pass in silence."""
    good, bad = np.ones((1500, 2), np.float32), np.ones((1500, 2), np.float32)
    bad[1100, 1] = value
    ids = [f"d{row}" for row in range(1500)]
    file = "terms.values" if terms else "dense"
    queries, passages = folders(tmp_path / "1", terms, bad, good)
    with pytest.raises(RetrobenchError, match=rf"^The vector of query 'd1100' \({file}\.npy\) is not finite, so it ca"):
        ranked(queries, passages, ids, ids, 5)
    queries, passages = folders(tmp_path / "2", terms, good, bad)
    with pytest.raises(RetrobenchError, match=rf"^The vector of document 'd1100' \({file}\.npy\) is not finite, so it"):
        ranked(queries, passages, ids, ids, 5)


def test_negative_scores_are_scores(tmp_path: Path) -> None:
    """Nothing is filled in for what is missing: the best of negative products is first."""
    queries = lay(tmp_path / "q", dense=np.asarray([[1.0, 0.0]], np.float32))
    passages = lay(tmp_path / "p", dense=np.asarray([[-3, 0], [-1, 0], [-2, 0]], np.float32))
    found = ranked(queries, passages, ["q"], ["a", "b", "c"], 10)
    assert found.rows.tolist() == [[1, 2, 0]] and found.scores.tolist() == [[-1, -2, -3]]


@pytest.mark.parametrize("terms", [False, True])
def test_an_encoder_that_collapsed_does_not_win(terms: bool, tmp_path: Path) -> None:
    """One vector for all: every relevant document in turn, the reciprocal rank is that of a list by ids."""
    ones, ids = np.ones((50, 2), np.float32), random_ids(50)
    found = ranked(*folders(tmp_path, terms, ones, ones), [f"q{row}" for row in range(50)], ids, 50)
    assert found.ties == 50 * 49
    qrels = {f"q{row}": {ids[row]: 1} for row in range(50)}
    values = measure(list(qrels), found.rows, ids, qrels, ["RR"])["RR"]
    assert sorted(values.values()) == pytest.approx(sorted(1 / rank for rank in range(1, 51)))


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
    write_run(tmp_path, queries, ids, ranking.Ranked(rows, scores, 0, 0), "an entrant  of 100%")
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


def test_a_run_ends_where_a_list_does(tmp_path: Path) -> None:
    """-1 is no document, in the file; in the arrays it stays, and what was counted comes back."""
    rows = np.asarray([[1, 0], [0, -1], [-1, -1]], np.int32)
    scores = np.asarray([[2.5, 2.5], [1, -np.inf], [-np.inf, -np.inf]], np.float32)
    write_run(tmp_path, ["q1", "q2", "q3"], ["a", "b"], ranking.Ranked(rows, scores, 7, 1), "t")
    assert (tmp_path / "run.trec").read_text() == "q1 Q0 b 1 2.5 t\nq1 Q0 a 2 2.5 t\nq2 Q0 a 1 1 t\n"
    queries, ids, found = read_run(tmp_path)
    assert (queries, ids, found.self_hits, found.ties) == (["q1", "q2", "q3"], ["a", "b"], 7, 1)
    assert found.rows.tolist() == rows.tolist() and found.scores.tolist() == scores.tolist()
    names = json.loads((tmp_path / "names.json").read_text())
    del names["self_hits"]  # as stores of before have it
    (tmp_path / "names.json").write_text(json.dumps(names))
    assert read_run(tmp_path)[2].self_hits == 0


def test_a_run_keeps_every_bit_of_a_score(tmp_path: Path) -> None:
    scores = -np.sort(-np.random.default_rng(0).standard_normal((2, 500)).astype(np.float32) * 1e3)
    rows = np.tile(np.arange(500), (2, 1))
    write_run(tmp_path, ["q 1", "é"], [f"d{row}" for row in range(500)], ranking.Ranked(rows, scores, 0, 0), "x")
    lines = (tmp_path / "run.trec").read_text(encoding="utf-8").splitlines()
    assert np.asarray([line.split()[-2] for line in lines], np.float32).reshape(2, 500).tolist() == scores.tolist()
    assert np.array_equal(np.load(tmp_path / "scores.npy"), scores)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), rows)
    assert json.loads((tmp_path / "names.json").read_text())["queries"] == ["q 1", "é"]


def test_a_run_says_how_it_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the vectors are stored as, and of an index what it finds; its run holds canonical scores."""
    draw = np.random.default_rng(0)
    queries = lay(tmp_path / "q", draw.standard_normal((20, 8)).astype(np.float32))
    passages = lay(tmp_path / "p", draw.standard_normal((300, 8)).astype(np.float32))
    (tmp_path / "exact").mkdir()
    retrieve(tmp_path / "exact", Sought(queries, passages), 30, "data", "x")
    assert searched_how(tmp_path / "exact") == {"stored": "float32"} and searched_how(tmp_path) == {}
    names, ids, exact = read_run(tmp_path / "exact")
    assert (names, ids) == ([str(row) for row in range(20)], [str(row) for row in range(300)])
    assert np.array_equal(exact.rows, ranked(queries, passages, names, ids, 30).rows)

    (tmp_path / "index").mkdir()
    retrieve(tmp_path / "index", Sought(queries, passages, index="HNSW4"), 30, "data", "x")
    how = searched_how(tmp_path / "index")
    _, _, found = read_run(tmp_path / "index")
    shares = [np.isin(found.rows[query, :30], exact.rows[query]).mean() for query in range(20)]
    assert how["index"] == "HNSW4" and how["recall of the index@30"] == pytest.approx(np.mean(shares))
    assert f"recall of the index@30 {how['recall of the index@30']}" in capsys.readouterr().err


# The stage, on a random encoder


def searched(made: tiny.Tiny, encoder: Path, on: Experiment) -> tuple[Artifact, Artifact, Artifact]:
    """The run of the test queries by an encoder, and the vectors of queries and passages behind it."""
    name, reading = f"{made.data}:test", Reading(query_length=12, passage_length=40)
    work = works.work(made.store, name, base=made.base, on=on)
    texts, model = works.training_texts(work, name), works.artifact("finetune", encoder)
    queries = encode(work, model, texts.queries, "query", reading)
    passages = encode(work, model, texts.documents, "passage", reading)
    return search(work, name, queries, passages, 1000), queries, passages


@pytest.mark.parametrize("representation", ["cls", "mean", "terms", "cls+terms"])
def test_the_stage_ranks_by_the_representations_own_similarity(representation: str, tmp_path: Path) -> None:
    made = tiny.make(tmp_path)
    sizes = Representations(dense=8, terms=6, activation="raw", scale=SCALE)
    backbone, _ = load_backbone(made.base)
    torch.manual_seed(2)
    for name, parameter in backbone.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.3)
    encoder = Encoder(backbone, representation, sizes).eval()
    folder = tmp_path / "encoder"
    folder.mkdir()
    encoder.save(folder, load_tokenizer(made.base), 40)
    run, queries, passages = searched(made, folder, works.experiment(representation, representation=sizes))
    assert run.cost["queries"] == 15 and run.cost["documents"] == tiny.DOCUMENTS

    names = json.loads((run.path / "names.json").read_text())
    assert names["queries"] == [f"q{row}" for row in tiny.SPLITS["test"]]
    assert (passages.cost["texts"], queries.cost["texts"]) == (tiny.DOCUMENTS, 15)
    scores = encoder.similarity(load(queries.path), load(passages.path)).numpy()
    rows, kept = np.load(run.path / "rows.npy"), np.load(run.path / "scores.npy")
    assert rows.shape == (15, tiny.DOCUMENTS), "as many as there are, not as many as were asked for"
    np.testing.assert_allclose(kept, np.take_along_axis(scores, rows, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(kept) <= 0).all() and all(sorted(of) == list(range(tiny.DOCUMENTS)) for of in rows.tolist())


def load(folder: Path) -> representation.Embeddings:
    """The vectors of an encode stage, terms written out over the whole vocabulary."""
    found = Vectors.open(folder)
    dense = torch.from_numpy(found.dense(0, len(found))) if found.width else None
    if not found.words:
        return representation.Embeddings(dense, None)
    kept = found.terms(0, len(found))
    # What was not kept may not be kept again: no raw logit is as small as this.
    terms = torch.full((len(found), found.words), -1e9)
    terms[np.repeat(np.arange(len(found)), np.diff(kept.indptr)), kept.indices] = torch.from_numpy(kept.values)
    return representation.Embeddings(dense, terms)


def test_the_stage_drops_own_documents_by_the_datasets_rule(tmp_path: Path) -> None:
    """A random encoder; the corpus has documents that are called like queries."""
    made = tiny.make(tmp_path)
    documents = [json.loads(line) for line in (made.data / "corpus.jsonl").read_text().splitlines()]
    for row, asked in enumerate(tiny.SPLITS["test"]):
        documents[row]["_id"] = f"q{asked}"
    tiny.write_lines(made.data / "corpus.jsonl", documents)
    backbone, _ = load_backbone(made.base)
    encoder = Encoder(backbone, "cls", Representations()).eval()
    folder = tmp_path / "encoder"
    folder.mkdir()
    encoder.save(folder, load_tokenizer(made.base), 40)
    runs = []
    for rule in ("", "drop_self = true\n"):
        (made.data / "dataset.toml").write_text(rule)
        runs.append(searched(made, folder, works.experiment())[0])
    settings = [json.loads((run.path / "entry.json").read_text())["settings"] for run in runs]
    assert settings[0] == {"depth": 1000, "scale": 1.0, "engine": "exact", "drop_self": False}
    assert settings[1] == {**settings[0], "drop_self": True}
    (queries, ids, kept), (_, _, dropped) = (read_run(run.path) for run in runs)
    assert (kept.self_hits, dropped.self_hits) == (0, 15)
    for query, before, after in zip(queries, kept.rows.tolist(), dropped.rows.tolist(), strict=True):
        assert [row for row in before if ids[row] != query] == [row for row in after if row >= 0]
