"""`evaluate`: numbers by hand, groups, rules, what is kept and what is refused before a model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import published
import pytest
import tiny
from sentence_transformers import SentenceTransformer

from retrobench.data import groups
from retrobench.data.datasets import Document, load
from retrobench.errors import RetrobenchError
from retrobench.retrieval import encoders
from retrobench.retrieval.encoders import PublishedEncoder
from retrobench.retrieval.encoders.encoder import join_title
from retrobench.retrieval.vectors import Vectors
from retrobench.runs.evaluation import Choices, Evaluated, evaluate
from retrobench.scoring import Scored

MEASURES = ("nDCG@10", "MRR@10", "Recall@5", "Success@5")
DOT = {"similarity_fn_name": "dot", "prompts": published.PROMPTS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a collection with titles, a copy of it, and two models."""
    root = tmp_path_factory.mktemp("evaluate")
    tiny.write_collection(root / "data")
    tiny.write_collection(root / "twin")
    published.sentence(root / "dot", says=DOT, normalize=False)
    published.bare(root / "bare")
    return root


def run(root: Path, store: Path, datasets: Sequence[str] | None = None, **choices: Any) -> Evaluated:
    """Evaluate the model `dot` on datasets, by default on `data`."""
    names = datasets or [str(root / "data")]
    return evaluate(str(root / "dot"), names, MEASURES, Choices(**choices), store)


def run_one(root: Path, store: Path, dataset: str | None = None, **choices: Any) -> Scored:
    """Evaluate the model `dot` on one dataset, by default on `data`."""
    datasets = [dataset or str(root / "data")]
    (scored,) = run(root, store, datasets, **choices).scored.values()
    return scored


def ranked_by_hand(folder: Path) -> dict[str, list[str]]:
    """Rank all documents for each query by sentence-transformers' own vectors and plain products.

    Of equal scores, the greater id in bytes comes first.
    """
    dataset = load(str(folder))
    queries = list(dataset.queries())
    documents = list(dataset.documents())
    passages = [f"{document.title} {document.text}".strip() for document in documents]
    model = SentenceTransformer(str(folder.parent / "dot"), device="cpu")
    query_vectors = model.encode([query.text for query in queries], prompt_name="query")
    passage_vectors = model.encode(passages, prompt_name="passage")
    rankings: dict[str, list[str]] = {}
    for query, scores in zip(queries, query_vectors @ passage_vectors.T, strict=True):
        keys = [(score, document.id.encode()) for score, document in zip(scores, documents, strict=True)]
        rankings[query.id] = [document_id.decode() for _, document_id in sorted(keys, reverse=True)]
    return rankings


def by_hand(folder: Path, drop_self: bool = False) -> dict[str, float]:
    """Return the means of measures over rankings by hand, with or without documents of a query's own id."""
    qrels = load(str(folder)).qrels()
    measures = []
    for query_id, document_ids in ranked_by_hand(folder).items():
        if drop_self:
            document_ids.remove(query_id)
        measures.append(measures_by_hand(document_ids, qrels[query_id]))
    means = np.mean(measures, axis=0)
    return dict(zip(MEASURES, means.tolist(), strict=True))


def measures_by_hand(document_ids: list[str], grades: dict[str, int]) -> list[float]:
    """Return nDCG@10, MRR@10, Recall@5 and Success@5 of a query."""
    gains = dcg([grades.get(document_id, 0) for document_id in document_ids[:10]])
    best_gains = dcg(sorted(grades.values(), reverse=True)[:10])
    relevant_ranks = [rank for rank, document_id in enumerate(document_ids, 1) if document_id in grades]
    reciprocal_rank = 0.0
    if relevant_ranks[0] <= 10:
        reciprocal_rank = 1 / relevant_ranks[0]
    hits = len([rank for rank in relevant_ranks if rank <= 5])
    return [gains / best_gains, reciprocal_rank, hits / len(grades), float(hits > 0)]


def dcg(grades: list[int]) -> float:
    total = 0.0
    for rank, grade in enumerate(grades, 1):
        total += grade / math.log2(rank + 1)
    return total


def test_scores_equal_a_computation_by_hand(root: Path, tmp_path: Path) -> None:
    scored = run_one(root, tmp_path)
    expected = by_hand(root / "data")
    assert scored.measures == pytest.approx(expected, abs=1e-9)
    assert (scored.queries, scored.missing, scored.self_hits_removed) == (15, 0, 0)
    different = set(expected.values()) - {0.0, 1.0}
    assert len(different) >= 3, "measures with different values"


def read_vectors(store: Path) -> list[Vectors]:
    """Return the stored vectors in an order that two stores have in common."""
    manifests = sorted(store.glob("embed/*/manifest.json"), key=Path.read_text)
    return [Vectors.open(file.parent) for file in manifests]


def test_vectors_computed_in_bf16_are_stored_in_float32(root: Path, tmp_path: Path) -> None:
    """They are close to the vectors computed in float32, but not equal."""
    expected = by_hand(root / "data")
    vectors = {}
    for dtype in ("float32", "bfloat16"):
        store = tmp_path / dtype
        scored = run_one(root, store, dtype=dtype)
        assert scored.measures == pytest.approx(expected, abs=0.1)
        artifacts = read_vectors(store)
        for artifact in artifacts:
            assert artifact.dtype == "float32"
            assert artifact.manifest["computed"] == dtype
        vectors[dtype] = np.concatenate([artifact.dense(0, len(artifact)) for artifact in artifacts])
    float32, bf16 = vectors["float32"], vectors["bfloat16"]
    products = (float32 * bf16).sum(1)
    norms = np.linalg.norm(float32, axis=1) * np.linalg.norm(bf16, axis=1)
    cosines = products / norms
    assert 0.99 < cosines.min() < 1 - 1e-7


@pytest.fixture
def own(root: Path, tmp_path: Path) -> Path:
    """Return a collection whose queries are texts of documents by their ids: a query's own document ranks first."""
    folder = tmp_path / "own"
    tiny.write_collection(folder)
    corpus = (folder / "corpus.jsonl").read_text().splitlines()
    queries = []
    judgements = ["query-id\tcorpus-id\tscore\n"]
    for number in range(15):
        document = json.loads(corpus[number])
        queries.append({"_id": f"d{number}", "text": document["text"]})
        judgements.append(f"d{number}\td{number + 1}\t1\n")
    tiny.write_lines(folder / "queries.jsonl", queries)
    (folder / "qrels" / "test.tsv").write_text("".join(judgements))
    (tmp_path / "dot").symlink_to(root / "dot")
    return folder


def test_own_documents_are_dropped_by_the_datasets_rule(own: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    plain = run_one(tmp_path, store, str(own))
    assert plain.self_hits_removed == 0
    assert plain.measures == pytest.approx(by_hand(own), abs=1e-9)
    (own / "dataset.toml").write_text("drop_self = true\n")
    dropped = run_one(tmp_path, store, str(own))
    assert dropped.self_hits_removed == 15
    assert dropped.measures == pytest.approx(by_hand(own, drop_self=True), abs=1e-9)
    assert dropped.measures["nDCG@10"] > plain.measures["nDCG@10"]


def test_title_and_text_are_joined_by_a_space() -> None:
    assert join_title(Document("1", "Title", "text ")) == "Title text"
    assert join_title(Document("1", "Title", "")) == "Title"
    assert join_title(Document("1", "", " text ")) == " text "


def test_the_document_is_that_of_the_interface(root: Path, tmp_path: Path) -> None:
    evaluated = run(root, tmp_path, query_prefix="")
    document = json.loads(evaluated.json())
    assert list(document) == ["model", "settings", "datasets", "averages"]
    assert document["model"] == str(root / "dot")
    assert document["averages"] == {}
    assert document["settings"] == {
        "pooling": "mean",
        "normalize": False,
        "query_prefix": "",
        "passage_prefix": "fe ge: ",
        "max_length": 24,
        "similarity": "dot",
        "dtype": "float32",
    }
    assert list(document["datasets"]) == [str(root / "data")]
    score = document["datasets"][str(root / "data")]
    assert score["dataset"] == str(root / "data")
    assert set(score["measures"]) == set(MEASURES)
    assert score["relevance_level"] == 1
    assert Path(score["run"]).read_text().count("\n") == 15 * 60


def test_the_text_names_settings_counts_and_places(root: Path, tmp_path: Path) -> None:
    evaluated = run(root, tmp_path, max_length=9)
    lines = [" ".join(line.split()) for line in evaluated.text().splitlines()]
    assert lines[0] == f"Model {root / 'dot'}, files {evaluated.key}"
    assert "pooling mean 1_Pooling/config.json" in lines
    assert "max_length 9 --max-length" in lines
    assert "titles joined to the text by a space default" in lines
    assert "dataset queries missing self-hits removed ties nDCG@10 MRR@10 Recall@5 Success@5" in lines
    name = str(root / "data")
    scored = evaluated.scored[name]
    values = " ".join(f"{scored.measures[measure]:.4f}" for measure in MEASURES)
    assert f"{name} 15 0 0 {scored.ties} {values}" in lines
    assert f"{name} {scored.run}" in lines


def test_without_measures_each_dataset_has_its_own(root: Path, tmp_path: Path) -> None:
    plain = str(root / "data")
    described = tmp_path / "data"
    tiny.write_collection(described)
    (described / "dataset.toml").write_text('measures = ["MRR@3", "MAP"]\nnote = "Made up."\n')
    evaluated = evaluate(str(root / "dot"), [plain, str(described)], [], Choices(), tmp_path / "store")
    assert list(evaluated.scored) == [plain, str(described)]
    assert list(evaluated.scored[plain].measures) == ["nDCG@10", "Recall@100"]
    assert list(evaluated.scored[str(described)].measures) == ["MRR@3", "MAP"]
    assert f"{described}: Made up." in evaluated.text().splitlines()


def test_a_complete_group_has_its_mean(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(root / "data")
    twin = f"{root / 'twin'}:val"
    monkeypatch.setattr(groups, "GROUPS", {"pair": groups.Group((data, twin), "pair (mean of 2)")})
    evaluated = run(root, tmp_path, ["pair"])
    assert list(evaluated.scored) == [data, twin]
    data_score = evaluated.scored[data].measures["nDCG@10"]
    twin_score = evaluated.scored[twin].measures["nDCG@10"]
    assert data_score != twin_score
    average = evaluated.averages["pair (mean of 2)"]["nDCG@10"]
    assert average == pytest.approx((data_score + twin_score) / 2)
    assert json.loads(evaluated.json())["averages"] == evaluated.averages
    (line,) = [line for line in evaluated.text().splitlines() if line.startswith("pair (mean of 2)")]
    assert line.split()[4] == f"{average:.4f}"
    assert run(root, tmp_path, [data]).averages == {}


def test_stored_vectors_are_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(root, tmp_path)
    embedded: list[tuple[str, int]] = []
    write = PublishedEncoder.write

    def counted(self: PublishedEncoder, folder: Path, texts: Any, total: int, kind: encoders.Kind, *more: Any) -> Any:
        embedded.append((kind, total))
        return write(self, folder, texts, total, kind, *more)

    monkeypatch.setattr(PublishedEncoder, "write", counted)
    assert run(root, tmp_path).json() == first.json()
    assert embedded == []
    # The copy has equal documents, so only its queries are new.
    run(root, tmp_path, [f"{root / 'twin'}:val"])
    assert embedded == [("query", 15)]
    embedded.clear()
    run(root, tmp_path, query_prefix="lo ")
    assert embedded == [("query", 15)]
    embedded.clear()
    run(root, tmp_path, similarity="cos")
    assert embedded == [("passage", 60), ("query", 15)]


def test_a_run_reaches_as_deep_as_the_measures(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrobench.runs.evaluation.DEPTH", 7)
    depths = {"Recall@5": 7, "MAP": 7, "Recall@20": 20, "Recall@100": 60}
    for name, depth in depths.items():
        evaluated = evaluate(str(root / "dot"), [str(root / "data")], [name], Choices(), tmp_path)
        (scored,) = evaluated.scored.values()
        assert Path(scored.run).read_text().count("\n") == 15 * depth


class Wrong(NamedTuple):
    """Hold a fault in the arguments of an evaluation, and a text of its message. `{root}` is the folder of `root`."""

    message: str
    datasets: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    choices: Choices = Choices()


WRONG = {
    "dataset": Wrong(
        "Unknown dataset 'beir/nfcopus/test'. Did you mean 'beir/nfcorpus",
        datasets=("beir/nfcopus/test",),
    ),
    "measure": Wrong("Unknown measure 'nDCG@ten'", measures=("nDCG@ten",)),
    "pooling": Wrong("Unknown --pooling 'mode'", choices=Choices(pooling="mode")),
    "similarity": Wrong("Unknown --similarity 'l2'", choices=Choices(similarity="l2")),
    "split": Wrong("nowhere", datasets=("{root}/data:nowhere",)),
    "no queries": Wrong("documents", datasets=("{root}/documents",)),
}


def refuse_to_load(name: str, choices: Choices) -> None:
    pytest.fail("the model was loaded")


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_argument_is_refused_before_a_model_is_loaded(
    wrong: Wrong, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "documents").mkdir(exist_ok=True)
    tiny.write_lines(root / "documents" / "corpus.jsonl", [{"_id": "1", "title": "", "text": "ba"}])
    monkeypatch.setattr("retrobench.runs.evaluation.load_published", refuse_to_load)
    store = tmp_path / "store"
    datasets = [str(root / "data")]
    for dataset in wrong.datasets:
        datasets.append(dataset.format(root=root))
    with pytest.raises(RetrobenchError) as refused:
        evaluate(str(root / "dot"), datasets, wrong.measures, wrong.choices, store)
    message = str(refused.value)
    assert wrong.message in message
    assert "\n" not in message
    assert not store.exists()


def test_a_model_that_cannot_be_run_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match="Say it with --pooling"):
        evaluate(str(root / "bare"), [str(root / "data")], [], Choices(), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_an_index_has_runs_of_its_own_and_a_note(root: Path, tmp_path: Path) -> None:
    """A flat index has the scores of exact search and a recall of 1."""
    name = str(root / "data")
    exact = run(root, tmp_path)
    approximate = evaluate(str(root / "dot"), [name], MEASURES, Choices(), tmp_path, "Flat")
    assert list(approximate.scored) == [name]
    assert approximate.scored[name].measures == exact.scored[name].measures
    search = approximate.searched[name]
    assert search["index"] == "Flat"
    recalls = {value for key, value in search.items() if key.startswith("recall of the index@")}
    assert recalls == {1.0}
    note = f"{name}: approximate search, stored float32, index Flat, recall of the index@10 1.0"
    assert note in approximate.text()
    assert json.loads(approximate.json())["searched"] == {name: search}
    assert "searched" not in json.loads(exact.json())


NO_INDEX = [("IVFx", ": could not parse"), ("PQ7", " of vectors of 16 numbers: .* multiple of")]


@pytest.mark.parametrize(("index", "reason"), NO_INDEX)
def test_an_index_that_faiss_does_not_make_is_refused(root: Path, tmp_path: Path, index: str, reason: str) -> None:
    store = tmp_path / "store"
    with pytest.raises(RetrobenchError, match=rf"^faiss makes no index '{index}'{reason}"):
        evaluate(str(root / "dot"), [str(root / "data")], MEASURES, Choices(), store, index)
    assert not store.exists()
