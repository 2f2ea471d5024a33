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


def query_ids_of(count: int) -> list[str]:
    return [f"q{row}" for row in range(count)]


def hits(queries: Path, passages: Path, ids: list[str], depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and scores of a search with the scale of these tests."""
    query_count = len(Vectors.open(queries))
    result = ranked(queries, passages, query_ids_of(query_count), ids, depth, SCALE)
    assert result.rows.dtype == np.int32
    assert result.scores.dtype == np.float32
    return result.rows, result.scores


def assert_sorted(rows: np.ndarray, scores: np.ndarray, exact: np.ndarray, ids: list[str], depth: int) -> None:
    """Compare a result with a plain sort of exact scores [Q, N]."""
    assert rows.tolist() == naive(exact, ids, depth)
    scores_of_rows = np.take_along_axis(exact, rows, 1)
    assert scores.tolist() == scores_of_rows.tolist()


def ones(rows: int) -> np.ndarray:
    """Return equal vectors [rows, 2] float32."""
    return np.ones((rows, 2), np.float32)


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
    assert_sorted(rows, scores, query_vectors @ passage_vectors.T, ids, depth)


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
    scores_of_rows = np.take_along_axis(exact, rows, 1)
    np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores, scores_of_rows, rtol=1e-4, atol=1e-4)
    assert (np.diff(scores) <= 0).all()
    for query_rows in rows.tolist():
        assert len(set(query_rows)) == 100


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("queries", "documents", "depth"), SIZES[:-1])
def test_terms_equal_the_dense_product(queries: int, documents: int, depth: int, dense: bool, tmp_path: Path) -> None:
    draw = np.random.default_rng(documents)
    ids = random_ids(documents)
    entries, words = 3, 12
    drawn_columns = []
    for _ in range(documents):
        shuffled = draw.permutation(words)
        drawn_columns.append(shuffled[:entries])
    columns = np.stack(drawn_columns).astype(np.int32)
    weights = small_integers(draw, documents, entries)
    query_terms = small_integers(draw, queries, words)
    half = documents // 2
    for array in (columns, weights):  # duplicates
        array[half : 2 * half] = array[:half]
    passage_terms = np.zeros((documents, words), np.float32)
    np.put_along_axis(passage_terms, columns, weights, 1)
    exact = SCALE * (query_terms @ passage_terms.T)
    query_vectors, passage_vectors = None, None
    if dense:
        passage_vectors = small_integers(draw, documents, 2)
        passage_vectors[half : 2 * half] = passage_vectors[:half]
        query_vectors = small_integers(draw, queries, 2)
        exact = exact + query_vectors @ passage_vectors.T

    query_folder = lay(tmp_path / "q", query_vectors, written(query_terms), words)
    passage_folder = lay(tmp_path / "p", passage_vectors, sparse(columns, weights), words)
    rows, scores = hits(query_folder, passage_folder, ids, depth)
    assert_sorted(rows, scores, exact, ids, depth)


def test_terms_that_all_documents_share(tmp_path: Path) -> None:
    """Every score is equal, so the ids alone decide."""
    ids = random_ids(40)
    all_words = written(np.ones((2, 4), np.float32))
    first_word = sparse(np.zeros((40, 1), np.int32), np.ones((40, 1), np.float32))
    queries = lay(tmp_path / "q", terms=all_words, words=4)
    passages = lay(tmp_path / "p", terms=first_word, words=4)
    rows, scores = hits(queries, passages, ids, 5)
    equal_scores = np.full((2, 40), SCALE)
    assert_sorted(rows, scores, equal_scores, ids, 5)


def test_an_id_used_twice_is_refused(tmp_path: Path) -> None:
    queries = lay(tmp_path / "q", ones(1))
    passages = lay(tmp_path / "p", ones(3))
    with pytest.raises(RetrobenchError, match=r"^The collection holds the document id 'a' twice; .* Mend the file\.$"):
        ranked(queries, passages, ["q"], ["a", "b", "a"], 2, SCALE)


def test_a_query_id_used_twice_is_refused(tmp_path: Path) -> None:
    queries = lay(tmp_path / "q", ones(2))
    passages = lay(tmp_path / "p", ones(2))
    with pytest.raises(RetrobenchError, match=r"^The queries hold the query id 'q' twice; .* Mend the file\.$"):
        ranked(queries, passages, ["q", "q"], ["a", "b"], 2)


# Self-hits, and non-finite numbers


def lay_both(root: Path, terms: bool, queries: np.ndarray, passages: np.ndarray) -> tuple[Path, Path]:
    """Write two sides as dense vectors or as terms; the products [Q, N] are equal."""
    folders = root / "q", root / "p"
    for folder, matrix in zip(folders, (queries, passages), strict=True):
        if terms:
            lay(folder, terms=written(matrix), words=matrix.shape[1])
        else:
            lay(folder, dense=matrix)
    return folders


@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("depth", [1, 3, 19, 20, 100])
def test_own_documents_are_dropped(depth: int, terms: bool, tmp_path: Path) -> None:
    """The result is a plain sort of all other documents. Most scores are equal."""
    draw = np.random.default_rng(depth)
    passage_vectors = small_integers(draw, 20, 2)
    query_vectors = small_integers(draw, 300, 2)
    ids = random_ids(20)
    documents_as_queries = ids[:4:-1]
    query_ids = documents_as_queries + query_ids_of(285)
    queries, passages = lay_both(tmp_path, terms, query_vectors, passage_vectors)
    complete = ranked(queries, passages, query_ids, ids, depth)
    dropped = ranked(queries, passages, query_ids, ids, depth, drop_self=True)
    exact = query_vectors @ passage_vectors.T
    self_hits = 0
    for query, rows in enumerate(naive(exact, ids, 20)):
        best_rows = rows[:depth]
        if query_ids[query] in ids:
            rows.remove(ids.index(query_ids[query]))
        best_others = rows[:depth]
        self_hits += best_others != best_rows
        assert complete.rows[query].tolist() == best_rows
        assert filled(dropped.rows[query]) == best_others
    assert self_hits > 0
    assert dropped.self_hits == self_hits
    assert complete.self_hits == 0
    assert dropped.rows.shape == (300, min(depth, 20))


def filled(rows: np.ndarray) -> list[int]:
    """Return the rows of one query without the -1 behind them."""
    document_rows: list[int] = rows[rows >= 0].tolist()
    return document_rows


@pytest.mark.parametrize("terms", [False, True])
def test_no_query_and_no_passage(terms: bool, tmp_path: Path) -> None:
    queries, passages = lay_both(tmp_path, terms, ones(2), ones(3))
    empty = lay(tmp_path / "empty", ones(0))
    query_ids = ["q1", "q2"]
    ids = ["a", "b", "c"]
    reported: list[int] = []
    no_query = ranked(empty, passages, [], ids, 5, advance=reported.append)
    no_passage = ranked(queries, empty, query_ids, [], 5, drop_self=True, advance=reported.append)
    assert no_query.rows.shape == (0, 0)
    assert no_passage.rows.shape == (2, 0)
    assert reported == []
    result = ranked(queries, passages, query_ids, ids, 5, advance=reported.append)
    assert result.ties == 4
    assert reported == [2]


@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e15])
def test_a_vector_that_is_not_finite_is_named(value: float, terms: bool, tmp_path: Path) -> None:
    """faiss never returns a NaN document and returns nothing for a NaN query, both in silence."""
    good = ones(1500)
    bad = ones(1500)
    bad[1100, 1] = value
    ids = [f"d{row}" for row in range(1500)]
    file = "dense"
    if terms:
        file = "terms.values"
    for side, query_vectors, passage_vectors in (("query", bad, good), ("document", good, bad)):
        queries, passages = lay_both(tmp_path / side, terms, query_vectors, passage_vectors)
        text = rf"^The vector of {side} 'd1100' \({file}\.npy\) is not finite, so it ca"
        with pytest.raises(RetrobenchError, match=text):
            ranked(queries, passages, ids, ids, 5)


def test_negative_scores_are_scores(tmp_path: Path) -> None:
    """The best of negative products is first, and no zero is filled in."""
    query_vectors = np.asarray([[1, 0]], np.float32)
    passage_vectors = np.asarray([[-3, 0], [-1, 0], [-2, 0]], np.float32)
    queries, passages = lay_both(tmp_path, False, query_vectors, passage_vectors)
    result = ranked(queries, passages, ["q"], ["a", "b", "c"], 10)
    assert result.rows.tolist() == [[1, 2, 0]]
    assert result.scores.tolist() == [[-1, -2, -3]]


@pytest.mark.parametrize("terms", [False, True])
def test_an_encoder_that_collapsed_does_not_win(terms: bool, tmp_path: Path) -> None:
    """One vector for all texts: each query's relevant document has another rank, by the ids alone."""
    ids = random_ids(50)
    query_ids = query_ids_of(50)
    queries, passages = lay_both(tmp_path, terms, ones(50), ones(50))
    result = ranked(queries, passages, query_ids, ids, 50)
    assert result.ties == 50 * 49
    qrels = {}
    for query_id, text_id in zip(query_ids, ids, strict=True):
        qrels[query_id] = {text_id: 1}
    values = measure(query_ids, result.rows, ids, qrels, ["RR"])["RR"]
    ranks = np.arange(1, 51)
    assert sorted(values.values(), reverse=True) == pytest.approx(1 / ranks)


# The stage, on a random encoder


def random_encoder(setup: tiny.Tiny, representation: str, sizes: Representations) -> Encoder:
    """Return an encoder on tiny's base, with weights that tell texts apart."""
    backbone, _ = load_backbone(setup.base)
    torch.manual_seed(2)
    for name, parameter in backbone.named_parameters():
        mean = 0.0
        if "LayerNorm.weight" in name:
            mean = 1.0
        torch.nn.init.normal_(parameter, mean=mean, std=0.3)
    return Encoder(backbone, representation, sizes).eval()


def save(encoder: Encoder, setup: tiny.Tiny, folder: Path) -> Path:
    folder.mkdir()
    encoder.save(folder, load_tokenizer(setup.base), 40)
    return folder


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
    encoder = random_encoder(setup, representation, sizes)
    folder = save(encoder, setup, tmp_path / "encoder")
    experiment = works.experiment(representation, representation=sizes)
    run, queries, passages = searched(setup, folder, experiment)
    assert run.cost["queries"] == 15
    assert run.cost["documents"] == tiny.DOCUMENTS
    assert queries.cost["texts"] == 15
    assert passages.cost["texts"] == tiny.DOCUMENTS

    query_ids, _, result = read_run(run.path)
    assert query_ids == [f"q{number}" for number in tiny.SPLITS["test"]]
    query_embeddings = load(queries.path)
    passage_embeddings = load(passages.path)
    similarities = encoder.similarity(query_embeddings, passage_embeddings).numpy()
    assert result.rows.shape == (15, tiny.DOCUMENTS), "fewer than the depth of 1,000"
    similarities_of_rows = np.take_along_axis(similarities, result.rows, 1)
    np.testing.assert_allclose(result.scores, similarities_of_rows, rtol=1e-4, atol=1e-4)
    assert (np.diff(result.scores) <= 0).all()
    assert (np.sort(result.rows) == np.arange(tiny.DOCUMENTS)).all()


def load(folder: Path) -> representation.Embeddings:
    """Return the vectors of an encode stage, terms written out over the whole vocabulary."""
    vectors = Vectors.open(folder)
    rows = len(vectors)
    dense = None
    if vectors.width:
        dense = torch.from_numpy(vectors.dense(0, rows))
    if not vectors.words:
        return representation.Embeddings(dense, None)
    sparse_rows = vectors.terms(0, rows)
    # Lower than every raw logit: `similarity` keeps the largest terms again, and must not keep one of these.
    terms = torch.full((rows, vectors.words), -1e9)
    entry_counts = np.diff(sparse_rows.indptr)
    entry_rows = np.repeat(np.arange(rows), entry_counts)
    terms[entry_rows, sparse_rows.indices] = torch.from_numpy(sparse_rows.values)
    return representation.Embeddings(dense, terms)


def test_the_stage_drops_own_documents_by_the_datasets_rule(tmp_path: Path) -> None:
    """Some documents have the ids of queries. The encoder is random."""
    setup = tiny.make(tmp_path)
    give_documents_query_ids(setup.data / "corpus.jsonl")
    backbone, _ = load_backbone(setup.base)
    encoder = Encoder(backbone, "cls", Representations()).eval()
    folder = save(encoder, setup, tmp_path / "encoder")

    def search_with(rule: str) -> Path:
        (setup.data / "dataset.toml").write_text(rule)
        run, _, _ = searched(setup, folder, works.experiment())
        return run.path

    complete_run = search_with("")
    dropped_run = search_with("drop_self = true\n")
    assert settings_of(complete_run) == {"depth": 1000, "scale": 1.0, "engine": "exact", "drop_self": False}
    assert settings_of(dropped_run) == {"depth": 1000, "scale": 1.0, "engine": "exact", "drop_self": True}
    query_ids, ids, complete = read_run(complete_run)
    _, _, dropped = read_run(dropped_run)
    assert complete.self_hits == 0
    assert dropped.self_hits == 15
    for query, query_id in enumerate(query_ids):
        other_rows = complete.rows[query].tolist()
        other_rows.remove(ids.index(query_id))
        assert filled(dropped.rows[query]) == other_rows


def give_documents_query_ids(corpus: Path) -> None:
    """Rename the first documents of a corpus to the ids of the test queries."""
    documents = []
    for line in corpus.read_text().splitlines():
        documents.append(json.loads(line))
    for document, number in zip(documents, tiny.SPLITS["test"], strict=False):
        document["_id"] = f"q{number}"
    tiny.write_lines(corpus, documents)


def settings_of(run: Path) -> dict[str, object]:
    """Return the settings that the store recorded with a run."""
    entry = json.loads((run / "entry.json").read_text())
    return dict(entry["settings"])
