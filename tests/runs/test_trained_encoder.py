"""The encoder of a row gives the row's scores again: by `evaluate`, by `load_encoder`, and in beir's evaluator."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
from beir.retrieval.evaluation import EvaluateRetrieval
from beir.retrieval.search.dense import DenseRetrievalExactSearch

from retrobench import load_encoder
from retrobench.data import load
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.rows import Row
from retrobench.retrieval import BeirModel, MtebModel
from retrobench.runs import Choices, evaluate
from retrobench.runs.sweep import Request, sweep
from retrobench.scoring import score_hits
from retrobench.scoring.ranking import Ranking
from retrobench.store import read_settings

REPRESENTATIONS = ("cls", "mean", "terms", "cls+terms")
MEASURES = ("MRR@10", "nDCG@10", "Recall@100", "MAP")


class Trained(NamedTuple):
    """A tiny track, and for each representation a row and its encoder."""

    track: tiny.Tiny
    rows: dict[str, Row]

    @property
    def dataset(self) -> str:
        return f"{self.track.data}:test"

    def folder(self, representation: str) -> Path:
        row = self.rows[representation]
        return self.track.store / "finetune" / row.artifacts[f"finetune {row.chosen}"]

    def measures(self, representation: str) -> dict[str, float]:
        measures = self.rows[representation].measures[self.dataset]
        return {name: measures[name] for name in MEASURES}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    track = tiny.make(tmp_path_factory.mktemp("trained"))
    rows = {}
    for representation in REPRESENTATIONS:
        # `evaluate` searches 1000 documents per query.
        overrides = (f"entrant.representation={representation}", "representation.terms=5", "evaluate.depth=1000")
        request = Request(["mlm"], str(track.track), (0,), overrides, track.store, track.boards)
        (rows[representation],) = sweep(request).rows
    return Trained(track, rows)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_evaluate_gives_the_row(representation: str, trained: Trained, tmp_path: Path) -> None:
    """Also of a copy of the folder, in another store."""
    copy = tmp_path / "encoder"
    shutil.copytree(trained.folder(representation), copy)
    evaluated = evaluate(str(copy), [trained.dataset], MEASURES, Choices(), tmp_path / "store")
    scored = evaluated.scored[trained.dataset]
    assert scored.measures == pytest.approx(trained.measures(representation), abs=1e-9)
    settings = json.loads(evaluated.json())["settings"]
    assert settings["pooling"] == representation
    assert (settings["query_length"], settings["max_length"]) == (12, 40)
    assert "entry.json" in evaluated.text()


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_load_encoder_gives_the_row(representation: str, trained: Trained) -> None:
    encoder = load_encoder(trained.folder(representation))
    dataset = load(trained.dataset)
    documents = {document.id: (document.title, document.text) for document in dataset.documents()}
    queries = {query.id: query.text for query in dataset.queries()}
    encoded_documents = encoder.encode_documents(documents)
    hits = encoder.search(encoder.encode_queries(queries), encoded_documents, depth=1000)
    ids = list(documents)
    rows = [[ids.index(document) for document, _ in query_hits] for query_hits in hits]
    scores = [[score for _, score in query_hits] for query_hits in hits]
    ranking = as_ranking(rows, scores)
    scored = score_hits("loaded", dataset, list(queries), ids, ranking, MEASURES)
    assert scored.measures == pytest.approx(trained.measures(representation), abs=1e-9)
    assert (encoded_documents.dense is None) == (representation == "terms")
    assert (encoded_documents.terms is None) == ("terms" not in representation)
    if encoded_documents.terms is not None:
        assert encoded_documents.terms.getnnz(1).max() == 5


def as_ranking(rows: list[list[int]], scores: list[list[float]]) -> Ranking:
    return Ranking(np.asarray(rows, np.int32), np.asarray(scores, np.float32), self_hits=0, ties=0)


@pytest.mark.parametrize("representation", ["cls", "mean"])
def test_beirs_search_gives_the_same_scores(representation: str, trained: Trained) -> None:
    encoder = load_encoder(trained.folder(representation))
    dataset = load(trained.dataset)
    corpus = {document.id: {"title": document.title, "text": document.text} for document in dataset.documents()}
    queries = {query.id: query.text for query in dataset.queries()}
    search = DenseRetrievalExactSearch(BeirModel(encoder), show_progress_bar=False)
    results = EvaluateRetrieval(search, k_values=[60], score_function="dot").retrieve(corpus, queries)
    hits = encoder.search(encoder.encode_queries(queries), encoder.encode_documents(corpus))
    for query, query_hits in zip(queries, hits, strict=True):
        assert results[query] == pytest.approx(dict(query_hits), rel=1e-5, abs=1e-5)


def test_mtebs_interface_gives_the_same_vectors(trained: Trained) -> None:
    """MTEB puts the title in front of `text` and gives both apart too."""
    encoder = load_encoder(trained.folder("cls"))
    model = MtebModel(encoder)
    titles, bodies = ["ba", "da"], ["fe ge ki", "lo mu"]
    texts = [f"{title} {body}" for title, body in zip(titles, bodies, strict=True)]
    batches = [{"title": titles, "body": bodies, "text": texts}]
    documents = model.encode(batches, prompt_type="document", task_metadata=None, hf_split="test", hf_subset="default")
    queries = model.encode([{"text": ["ba"]}, {"text": ["da fe"]}], prompt_type="query", task_metadata=None)
    expected = encoder.encode_documents([{"title": "ba", "text": "fe ge ki"}, ("da", "lo mu")]).dense
    assert expected is not None
    assert documents.tolist() == expected.tolist()
    similarity = model.similarity(queries, documents)
    assert similarity.shape == (2, 2)
    pairs = model.similarity_pairwise(queries, documents).tolist()
    assert pairs == pytest.approx([similarity[0, 0].item(), similarity[1, 1].item()])


@pytest.mark.parametrize("adapter", [BeirModel, MtebModel])
def test_other_evaluators_take_no_terms(adapter: Any, trained: Trained) -> None:
    encoder = load_encoder(trained.folder("cls+terms"))
    with pytest.raises(RetrobenchError, match=r"is read by cls\+terms, .*encode_queries, encode_documents and search"):
        adapter(encoder)


def test_lengths_titles_and_precision_can_be_changed(trained: Trained) -> None:
    folder = trained.folder("cls")
    encoder = load_encoder(folder, query_length=8, passage_length=6, titles=False, dtype="bfloat16")
    assert (
        encoder.settings.values() | {"max_length": 6, "query_length": 8, "titles": "False"} == encoder.settings.values()
    )
    assert encoder.precision == "bf16"
    short = load_encoder(folder, passage_length=6, titles=False)
    whole = load_encoder(folder)
    text = "ba da fe ge ki lo mu na"
    assert equal(short, ("di", text), "ba da fe ge")
    assert not equal(whole, ("di", text), "ba da fe ge")
    assert not equal(whole, ("di", text), text)


def equal(encoder: Any, first: Any, second: Any) -> bool:
    """Return whether both documents have one vector."""
    vectors = encoder.encode_documents([first, second]).dense
    return bool(abs(vectors[0] - vectors[1]).max() < 1e-5)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(pooling="mean"), r"^--pooling is mean, and .* read by cls\+terms and compared by dot\."),
        (Choices(similarity="cos"), r"^--similarity is cos, and "),
        (Choices(query_prefix="q: "), r"was trained without prefixes"),
        (Choices(dtype="float16"), r"^--dtype is float16, .* Take bfloat16 or float32"),
    ],
)
def test_choices_of_another_encoder_are_refused(
    choices: Choices, message: str, trained: Trained, tmp_path: Path
) -> None:
    with pytest.raises(RetrobenchError, match=message):
        evaluate(str(trained.folder("cls+terms")), [trained.dataset], MEASURES, choices, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_encoder_in_fp16_needs_another_dtype_without_a_gpu(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained.folder("cls")
    settings = {**read_settings(folder), "precision": "fp16"}  # as on a GPU without bf16
    monkeypatch.setattr("retrobench.retrieval.trained.read_settings", lambda folder: settings)
    with pytest.raises(RetrobenchError, match=r"scored in fp16, .* Take --dtype float32, or a machine with a GPU"):
        load_encoder(folder)
    assert load_encoder(folder, dtype="float32").precision == "fp32"


def test_a_base_is_no_trained_encoder(trained: Trained) -> None:
    with pytest.raises(RetrobenchError, match=r"base holds no encoder that retrobench fine-tuned"):
        load_encoder(trained.track.base)


def test_terms_are_searched_exactly(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=r"--index is 'IVF1,Flat', which is for dense vectors, and .* has terms"):
        evaluate(str(trained.folder("terms")), [trained.dataset], MEASURES, Choices(), tmp_path, index="IVF1,Flat")
