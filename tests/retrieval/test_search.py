"""Search among folders of vectors equals plain products: ties, short collections, self-hits, the stage."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import works
from vector_folders import lay, ranked, sparse, written

from retrobench.config import Experiment, Reading, Representations
from retrobench.errors import RetrobenchError
from retrobench.model import encoder as representation
from retrobench.model.encoder import Encoder
from retrobench.model.loading import load_backbone, load_tokenizer
from retrobench.retrieval.vectors import Vectors
from retrobench.scoring.measures import measure
from retrobench.scoring.runfiles import read_run
from retrobench.stages import encode, search
from retrobench.store import Artifact

SCALE = 0.5


def naive(scores: np.ndarray, ids: list[str], depth: int) -> list[list[int]]:
    """Return the best rows of each query by a plain sort: score, then id, both descending."""
    rankings = []
    for query_scores in scores:
        keys = [(score, text_id.encode()) for score, text_id in zip(query_scores, ids, strict=True)]
        order = sorted(range(len(ids)), key=keys.__getitem__, reverse=True)
        rankings.append(order[:depth])
    return rankings


def small_integers(draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw integers from -2 to 2: their products are exact in any order of summing, and often equal."""
    return draw.integers(-2, 3, shape).astype(np.float32)


def hits(queries: Path, passages: Path, ids: list[str], depth: int) -> tuple[np.ndarray, np.ndarray]:
    query_ids = [f"q{row}" for row in range(len(Vectors.open(queries)))]
    result = ranked(queries, passages, query_ids, ids, depth, SCALE)
    assert result.rows.dtype == np.int32 and result.scores.dtype == np.float32
    return result.rows, result.scores


# Queries, documents, depth. More than 256 queries are scored in more than one block.
SIZES = [(1, 1, 1), (1, 40, 5), (3, 5, 1000), (7, 40, 39), (7, 40, 40), (30, 120, 10), (300, 50, 7)]


def random_ids(count: int) -> list[str]:
    ids = []
    for number in range(60):
        ids += [f"d{number}", f"é{number}"]
    return random.Random(count).sample(ids, count)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("queries", "documents", "depth"), SIZES)
def test_dense_equals_a_plain_sort(queries: int, documents: int, depth: int, seed: int, tmp_path: Path) -> None:
    """Two dimensions of five values: most scores are equal, at the cut too, and half the documents are duplicates."""
    draw = np.random.default_rng(seed)
    passage_vectors = small_integers(draw, documents, 2)
    query_vectors = small_integers(draw, queries, 2)
    ids = random_ids(documents)
    half = documents // 2
    passage_vectors[half:] = passage_vectors[: documents - half]
    query_folder = lay(tmp_path / "q", dense=query_vectors)
    passage_folder = lay(tmp_path / "p", dense=passage_vectors)
    rows, scores = hits(query_folder, passage_folder, ids, depth)
    exact = query_vectors @ passage_vectors.T
    assert rows.tolist() == naive(exact, ids, depth)
    assert scores.tolist() == np.take_along_axis(exact, rows, 1).tolist()


def test_dense_without_ties(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    passage_vectors = draw.standard_normal((500, 64), np.float32)
    query_vectors = draw.standard_normal((20, 64), np.float32)
    ids = [str(row) for row in range(500)]
    query_folder = lay(tmp_path / "q", dense=query_vectors)
    passage_folder = lay(tmp_path / "p", dense=passage_vectors)
    rows, scores = hits(query_folder, passage_folder, ids, 100)
    exact = query_vectors.astype(np.float64) @ passage_vectors.astype(np.float64).T
    best = -np.sort(-exact)[:, :100]
    np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores) <= 0).all()
    assert all(len(set(query_rows)) == 100 for query_rows in rows.tolist())


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("queries", "documents", "depth"), SIZES[:-1])
def test_terms_equal_the_dense_product(queries: int, documents: int, depth: int, dense: bool, tmp_path: Path) -> None:
    draw = np.random.default_rng(documents)
    ids = random_ids(documents)
    entries, words = 3, 12
    drawn_columns = [draw.permutation(words)[:entries] for _ in range(documents)]
    columns = np.stack(drawn_columns).astype(np.int32)
    weights = small_integers(draw, documents, entries)
    query_terms = small_integers(draw, queries, words)
    passage_vectors = small_integers(draw, documents, 2)
    query_vectors = small_integers(draw, queries, 2)
    half = documents // 2
    for array in (columns, weights, passage_vectors):  # duplicates
        array[half : 2 * half] = array[:half]
    matrix = np.zeros((documents, words), np.float32)
    np.put_along_axis(matrix, columns, weights, 1)
    exact = SCALE * (query_terms @ matrix.T)
    if dense:
        exact = exact + query_vectors @ passage_vectors.T

    query_folder = lay(tmp_path / "q", query_vectors if dense else None, written(query_terms), words)
    passage_folder = lay(tmp_path / "p", passage_vectors if dense else None, sparse(columns, weights), words)
    rows, scores = hits(query_folder, passage_folder, ids, depth)
    assert rows.tolist() == naive(exact, ids, depth)
    assert scores.tolist() == np.take_along_axis(exact, rows, 1).tolist()


def test_terms_that_all_documents_share(tmp_path: Path) -> None:
    """Every score is equal, so the ids alone decide."""
    queries = lay(tmp_path / "q", None, written(np.ones((2, 4), np.float32)), 4)
    shared = sparse(np.zeros((40, 1), np.int32), np.ones((40, 1), np.float32))
    rows, scores = hits(queries, lay(tmp_path / "p", None, shared, 4), random_ids(40), 5)
    assert rows.tolist() == naive(np.ones((2, 40)), random_ids(40), 5) and (scores == SCALE).all()


def test_an_id_used_twice_is_refused(tmp_path: Path) -> None:
    queries = lay(tmp_path / "q", dense=np.ones((1, 2), np.float32))
    passages = lay(tmp_path / "p", dense=np.ones((3, 2), np.float32))
    with pytest.raises(RetrobenchError, match=r"^The collection holds the document id 'a' twice; .* Mend the file\.$"):
        ranked(queries, passages, ["q"], ["a", "b", "a"], 2, SCALE)


def test_a_query_id_used_twice_is_refused(tmp_path: Path) -> None:
    queries = lay(tmp_path / "q", dense=np.ones((2, 2), np.float32))
    passages = lay(tmp_path / "p", dense=np.ones((2, 2), np.float32))
    with pytest.raises(RetrobenchError, match=r"^The queries hold the query id 'q' twice; .* Mend the file\.$"):
        ranked(queries, passages, ["q", "q"], ["a", "b"], 2)


# Self-hits, and non-finite numbers


def folders(root: Path, terms: bool, queries: np.ndarray, passages: np.ndarray) -> tuple[Path, Path]:
    """Write two sides as dense vectors or as terms; the products [Q, N] are equal."""
    if not terms:
        return lay(root / "q", dense=queries), lay(root / "p", dense=passages)
    width = queries.shape[1]
    return lay(root / "q", None, written(queries), width), lay(root / "p", None, written(passages), width)


@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("depth", [1, 3, 19, 20, 100])
def test_own_documents_are_dropped(depth: int, terms: bool, tmp_path: Path) -> None:
    """The result is a plain sort of all other documents. Most scores are equal."""
    draw = np.random.default_rng(depth)
    passage_vectors = small_integers(draw, 20, 2)
    query_vectors = small_integers(draw, 300, 2)
    ids = random_ids(20)
    query_ids = random_ids(20)[::-1][:15] + [f"q{row}" for row in range(285)]
    queries, passages = folders(tmp_path, terms, query_vectors, passage_vectors)
    complete = ranked(queries, passages, query_ids, ids, depth)
    dropped = ranked(queries, passages, query_ids, ids, depth, drop_self=True)
    self_hits = 0
    for index, rows in enumerate(naive(query_vectors @ passage_vectors.T, ids, 20)):
        other_rows = [row for row in rows if ids[row] != query_ids[index]]
        self_hits += other_rows[:depth] != rows[:depth]
        assert complete.rows[index].tolist() == rows[:depth]
        assert [row for row in dropped.rows[index].tolist() if row >= 0] == other_rows[:depth]
    assert dropped.self_hits == self_hits > 0
    assert complete.self_hits == 0
    assert dropped.rows.shape == (300, min(depth, 20))


@pytest.mark.parametrize("terms", [False, True])
def test_no_query_and_no_passage(terms: bool, tmp_path: Path) -> None:
    queries, passages = folders(tmp_path, terms, np.ones((2, 2), np.float32), np.ones((3, 2), np.float32))
    empty = lay(tmp_path / "empty", np.zeros((0, 2), np.float32))
    reported: list[int] = []
    no_query = ranked(empty, passages, [], ["a", "b", "c"], 5, advance=reported.append)
    no_passage = ranked(queries, empty, ["q1", "q2"], [], 5, drop_self=True, advance=reported.append)
    assert no_query.rows.shape == (0, 0)
    assert no_passage.rows.shape == (2, 0)
    assert reported == []
    result = ranked(queries, passages, ["q1", "q2"], ["a", "b", "c"], 5, advance=reported.append)
    assert result.ties == 4
    assert reported == [2]


@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e15])
def test_a_vector_that_is_not_finite_is_named(value: float, terms: bool, tmp_path: Path) -> None:
    """faiss never returns a NaN document and returns nothing for a NaN query, both in silence."""
    good = np.ones((1500, 2), np.float32)
    bad = np.ones((1500, 2), np.float32)
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
    """The best of negative products is first, and no zero is filled in."""
    queries = lay(tmp_path / "q", dense=np.asarray([[1.0, 0.0]], np.float32))
    passages = lay(tmp_path / "p", dense=np.asarray([[-3, 0], [-1, 0], [-2, 0]], np.float32))
    result = ranked(queries, passages, ["q"], ["a", "b", "c"], 10)
    assert result.rows.tolist() == [[1, 2, 0]]
    assert result.scores.tolist() == [[-1, -2, -3]]


@pytest.mark.parametrize("terms", [False, True])
def test_an_encoder_that_collapsed_does_not_win(terms: bool, tmp_path: Path) -> None:
    """One vector for all texts: each query's relevant document has another rank, by the ids alone."""
    ones = np.ones((50, 2), np.float32)
    ids = random_ids(50)
    queries, passages = folders(tmp_path, terms, ones, ones)
    result = ranked(queries, passages, [f"q{row}" for row in range(50)], ids, 50)
    assert result.ties == 50 * 49
    qrels = {f"q{row}": {ids[row]: 1} for row in range(50)}
    values = measure(list(qrels), result.rows, ids, qrels, ["RR"])["RR"]
    assert sorted(values.values()) == pytest.approx(sorted(1 / rank for rank in range(1, 51)))


# The stage, on a random encoder


def searched(setup: tiny.Tiny, encoder: Path, on: Experiment) -> tuple[Artifact, Artifact, Artifact]:
    """Return the run of the test queries by an encoder, and the vectors of queries and passages."""
    name = f"{setup.data}:test"
    reading = Reading(query_length=12, passage_length=40)
    work = works.work(setup.store, name, base=setup.base, on=on)
    texts = works.training_texts(work, name)
    model = works.artifact("finetune", encoder)
    queries = encode(work, model, texts.queries, "query", reading)
    passages = encode(work, model, texts.documents, "passage", reading)
    return search(work, name, queries, passages, 1000), queries, passages


@pytest.mark.parametrize("representation", ["cls", "mean", "terms", "cls+terms"])
def test_the_stage_ranks_by_the_similarity_of_its_representation(representation: str, tmp_path: Path) -> None:
    setup = tiny.make(tmp_path)
    sizes = Representations(dense=8, terms=6, activation="raw", scale=SCALE)
    backbone, _ = load_backbone(setup.base)
    torch.manual_seed(2)
    for name, parameter in backbone.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.3)
    encoder = Encoder(backbone, representation, sizes).eval()
    folder = tmp_path / "encoder"
    folder.mkdir()
    encoder.save(folder, load_tokenizer(setup.base), 40)
    run, queries, passages = searched(setup, folder, works.experiment(representation, representation=sizes))
    assert run.cost["queries"] == 15 and run.cost["documents"] == tiny.DOCUMENTS

    names = json.loads((run.path / "names.json").read_text())
    assert names["queries"] == [f"q{row}" for row in tiny.SPLITS["test"]]
    assert (passages.cost["texts"], queries.cost["texts"]) == (tiny.DOCUMENTS, 15)
    scores = encoder.similarity(load(queries.path), load(passages.path)).numpy()
    rows = np.load(run.path / "rows.npy")
    run_scores = np.load(run.path / "scores.npy")
    assert rows.shape == (15, tiny.DOCUMENTS), "fewer than the depth of 1,000"
    np.testing.assert_allclose(run_scores, np.take_along_axis(scores, rows, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(run_scores) <= 0).all()
    assert (np.sort(rows) == np.arange(tiny.DOCUMENTS)).all()


def load(folder: Path) -> representation.Embeddings:
    """Return the vectors of an encode stage, terms written out over the whole vocabulary."""
    vectors = Vectors.open(folder)
    rows = len(vectors)
    dense = torch.from_numpy(vectors.dense(0, rows)) if vectors.width else None
    if not vectors.words:
        return representation.Embeddings(dense, None)
    sparse_rows = vectors.terms(0, rows)
    # Lower than every raw logit: `similarity` keeps the largest terms again, and must not keep one of these.
    terms = torch.full((rows, vectors.words), -1e9)
    positions = np.repeat(np.arange(rows), np.diff(sparse_rows.indptr))
    terms[positions, sparse_rows.indices] = torch.from_numpy(sparse_rows.values)
    return representation.Embeddings(dense, terms)


def test_the_stage_drops_own_documents_by_the_datasets_rule(tmp_path: Path) -> None:
    """Some documents have the ids of queries. The encoder is random."""
    setup = tiny.make(tmp_path)
    documents = [json.loads(line) for line in (setup.data / "corpus.jsonl").read_text().splitlines()]
    for row, number in enumerate(tiny.SPLITS["test"]):
        documents[row]["_id"] = f"q{number}"
    tiny.write_lines(setup.data / "corpus.jsonl", documents)
    backbone, _ = load_backbone(setup.base)
    encoder = Encoder(backbone, "cls", Representations()).eval()
    folder = tmp_path / "encoder"
    folder.mkdir()
    encoder.save(folder, load_tokenizer(setup.base), 40)
    runs = []
    for rule in ("", "drop_self = true\n"):
        (setup.data / "dataset.toml").write_text(rule)
        run, _, _ = searched(setup, folder, works.experiment())
        runs.append(run)
    settings = [json.loads((run.path / "entry.json").read_text())["settings"] for run in runs]
    assert settings[0] == {"depth": 1000, "scale": 1.0, "engine": "exact", "drop_self": False}
    assert settings[1] == {**settings[0], "drop_self": True}
    queries, ids, complete = read_run(runs[0].path)
    _, _, dropped = read_run(runs[1].path)
    assert (complete.self_hits, dropped.self_hits) == (0, 15)
    for query, rows, dropped_rows in zip(queries, complete.rows.tolist(), dropped.rows.tolist(), strict=True):
        other_rows = [row for row in rows if ids[row] != query]
        assert [row for row in dropped_rows if row >= 0] == other_rows
