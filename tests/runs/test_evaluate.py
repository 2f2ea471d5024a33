"""`evaluate`: numbers by hand, groups, rules, what is kept and what is refused before a model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import tiny
from sentence_transformers import SentenceTransformer

from retrobench.data import rules
from retrobench.data.datasets import load
from retrobench.errors import RetrobenchError
from retrobench.retrieval import encoders
from retrobench.retrieval.encoders import PublishedEncoder
from retrobench.retrieval.vectors import Vectors
from retrobench.runs.evaluation import Choices, Evaluated, _join_title, evaluate

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


def run(root: Path, store: Path, datasets: Sequence[str] = ("data",), **choices: Any) -> Evaluated:
    """Evaluate the model `dot` on datasets: names of folders in `root`, paths or groups."""
    names = []
    for name in datasets:
        is_folder = "/" not in name and not name.startswith("pair")
        names.append(str(root / name) if is_folder else name)
    return evaluate(str(root / "dot"), names, MEASURES, Choices(**choices), store)


def by_hand(folder: Path, drop_self: bool = False) -> dict[str, float]:
    """Return the means of measures from sentence-transformers' own vectors and plain products."""
    dataset = load(str(folder))
    model = SentenceTransformer(str(folder.parent / "dot"), device="cpu")
    queries = {query.id: query.text for query in dataset.queries()}
    documents = {document.id: f"{document.title} {document.text}".strip() for document in dataset.documents()}
    query_vectors = model.encode(list(queries.values()), prompt_name="query")
    passage_vectors = model.encode(list(documents.values()), prompt_name="passage")
    qrels = dataset.qrels()
    totals = np.zeros(len(MEASURES))
    for query_id, scores in zip(queries, query_vectors @ passage_vectors.T, strict=True):
        by_id = dict(zip(documents, scores, strict=True))
        if drop_self:
            by_id.pop(query_id)
        ranked = sorted(by_id, key=lambda name: (by_id[name], name.encode()), reverse=True)
        totals += measures_by_hand(ranked, qrels[query_id])
    return dict(zip(MEASURES, (totals / len(queries)).tolist(), strict=True))


def measures_by_hand(ranked: list[str], grades: dict[str, int]) -> list[float]:
    """Return nDCG@10, MRR@10, Recall@5 and Success@5 of a query."""
    gains = dcg([grades.get(name, 0) for name in ranked[:10]])
    best_gains = dcg(sorted(grades.values(), reverse=True)[:10])
    relevant_ranks = [rank for rank, name in enumerate(ranked, 1) if name in grades]
    first_rank = relevant_ranks[0]
    reciprocal_rank = 1 / first_rank if first_rank <= 10 else 0.0
    hits = sum(rank <= 5 for rank in relevant_ranks)
    return [gains / best_gains, reciprocal_rank, hits / len(grades), float(hits > 0)]


def dcg(grades: list[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


def test_scores_equal_a_computation_by_hand(root: Path, tmp_path: Path) -> None:
    (scored,) = run(root, tmp_path).scored.values()
    expected = by_hand(root / "data")
    assert scored.measures == pytest.approx(expected, abs=1e-9)
    assert len({*expected.values()} - {0.0, 1.0}) >= 3, "measures with different values"
    assert (scored.queries, scored.missing, scored.self_hits_removed) == (15, 0, 0)


def test_vectors_computed_in_bf16_are_stored_in_float32(root: Path, tmp_path: Path) -> None:
    """They are near the vectors computed in float32, but not equal."""
    expected = by_hand(root / "data")
    vectors = {}
    for dtype in ("float32", "bfloat16"):
        (scored,) = run(root, tmp_path / dtype, dtype=dtype).scored.values()
        assert scored.measures == pytest.approx(expected, abs=0.1)
        manifests = sorted((tmp_path / dtype / "embed").glob("*/manifest.json"), key=lambda file: file.read_text())
        artifacts = [Vectors.open(file.parent) for file in manifests]
        for artifact in artifacts:
            assert (artifact.dtype, artifact.manifest["computed"]) == ("float32", dtype)
        vectors[dtype] = np.concatenate([artifact.dense(0, len(artifact)) for artifact in artifacts])
    products = (vectors["float32"] * vectors["bfloat16"]).sum(1)
    norms = np.linalg.norm(vectors["float32"], axis=1) * np.linalg.norm(vectors["bfloat16"], axis=1)
    assert 0.99 < (products / norms).min() < 1 - 1e-7


def test_own_documents_are_dropped_by_the_datasets_rule(root: Path, tmp_path: Path) -> None:
    """Query d0 is the text of document d0, and so on, so its own document ranks first unless it is dropped."""
    data = tmp_path / "own"
    tiny.write_collection(data)
    documents = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    tiny.write_lines(data / "queries.jsonl", [{"_id": f"d{n}", "text": documents[n]["text"]} for n in range(15)])
    judgements = "".join(f"d{n}\td{n + 1}\t1\n" for n in range(15))
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgements)
    (tmp_path / "dot").symlink_to(root / "dot")
    (plain,) = run(tmp_path, tmp_path / "store", ["own"]).scored.values()
    assert plain.self_hits_removed == 0
    assert plain.measures == pytest.approx(by_hand(data), abs=1e-9)
    (data / "dataset.toml").write_text("drop_self = true\n")
    (dropped,) = run(tmp_path, tmp_path / "store", ["own"]).scored.values()
    assert dropped.self_hits_removed == 15
    assert dropped.measures == pytest.approx(by_hand(data, drop_self=True), abs=1e-9)
    assert dropped.measures["nDCG@10"] > plain.measures["nDCG@10"]


def test_title_and_text_are_joined_by_a_space() -> None:
    from retrobench.data.datasets import Document

    assert _join_title(Document("1", "Title", "text ")) == "Title text"
    assert _join_title(Document("1", "Title", "")) == "Title"
    assert _join_title(Document("1", "", " text ")) == " text "


def test_the_document_is_that_of_the_interface(root: Path, tmp_path: Path) -> None:
    document = json.loads(run(root, tmp_path, query_prefix="").json())
    assert list(document) == ["model", "settings", "datasets", "averages"]
    assert document["model"] == str(root / "dot") and document["averages"] == {}
    assert document["settings"] == {
        "pooling": "mean",
        "normalize": False,
        "query_prefix": "",
        "passage_prefix": "fe ge: ",
        "max_length": 24,
        "similarity": "dot",
        "dtype": "float32",
    }
    (name, score), *others = document["datasets"].items()
    assert name == score["dataset"] == str(root / "data") and not others
    assert set(score["measures"]) == set(MEASURES) and score["relevance_level"] == 1
    assert Path(score["run"]).read_text().count("\n") == 15 * 60


def test_the_text_names_settings_counts_and_places(root: Path, tmp_path: Path) -> None:
    evaluated = run(root, tmp_path, max_length=9)
    lines = [" ".join(line.split()) for line in evaluated.text().splitlines()]
    assert lines[0] == f"Model {root / 'dot'}, files {evaluated.key}"
    assert "pooling mean 1_Pooling/config.json" in lines and "max_length 9 --max-length" in lines
    assert "titles joined to the text by a space default" in lines
    (name, scored), *_ = evaluated.scored.items()
    values = " ".join(f"{scored.measures[measure]:.4f}" for measure in MEASURES)
    assert f"dataset queries missing self-hits removed ties {' '.join(MEASURES)}" in lines
    assert f"{name} 15 0 0 {scored.ties} {values}" in lines
    assert f"{name} {scored.run}" in lines


def test_without_measures_each_dataset_has_its_own(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    tiny.write_collection(data)
    (data / "dataset.toml").write_text('measures = ["MRR@3", "MAP"]\nnote = "Made up."\n')
    evaluated = evaluate(str(root / "dot"), [str(root / "data"), str(data)], [], Choices(), tmp_path / "store")
    assert [list(scored.measures) for scored in evaluated.scored.values()] == [
        ["nDCG@10", "Recall@100"],
        ["MRR@3", "MAP"],
    ]
    assert f"{data}: Made up." in evaluated.text().splitlines()


def test_a_complete_group_has_its_mean(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = (str(root / "data"), f"{root / 'twin'}:val")
    monkeypatch.setattr(rules, "GROUPS", {"pair": members})
    monkeypatch.setattr(rules, "MEANS", {"pair": "pair (mean of 2)"})
    evaluated = run(root, tmp_path, ["pair"])
    assert list(evaluated.scored) == list(members)
    one, other = (scored.measures["nDCG@10"] for scored in evaluated.scored.values())
    assert one != other and evaluated.averages["pair (mean of 2)"]["nDCG@10"] == pytest.approx((one + other) / 2)
    assert json.loads(evaluated.json())["averages"] == evaluated.averages
    (line,) = (line for line in evaluated.text().splitlines() if line.startswith("pair (mean of 2)"))
    assert line.split()[4] == f"{evaluated.averages['pair (mean of 2)']['nDCG@10']:.4f}"
    assert run(root, tmp_path, ["data"]).averages == {}


def test_stored_vectors_are_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(root, tmp_path)
    embedded: list[tuple[str, int]] = []
    write = PublishedEncoder.write

    def counted(self: PublishedEncoder, folder: Path, texts: Any, total: int, kind: encoders.Kind, *rest: Any) -> Any:
        embedded.append((kind, total))
        return write(self, folder, texts, total, kind, *rest)

    monkeypatch.setattr(PublishedEncoder, "write", counted)
    assert run(root, tmp_path).json() == first.json() and not embedded
    # The copy has equal documents, so only its queries are new.
    run(root, tmp_path, [f"{root / 'twin'}:val"])
    assert embedded == [("query", 15)]
    run(root, tmp_path, query_prefix="lo ")
    assert embedded[1:] == [("query", 15)]
    run(root, tmp_path, similarity="cos")
    assert embedded[2:] == [("passage", 60), ("query", 15)]


def test_a_run_reaches_as_deep_as_the_measures(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrobench.runs.evaluation.DEPTH", 7)
    depths = {"Recall@5": 7, "MAP": 7, "Recall@20": 20, "Recall@100": 60}
    for name, depth in depths.items():
        evaluated = evaluate(str(root / "dot"), [str(root / "data")], [name], Choices(), tmp_path)
        (scored,) = evaluated.scored.values()
        assert Path(scored.run).read_text().count("\n") == 15 * depth


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "dataset": (
        {"datasets": ["beir/nfcopus/test"]},
        "Unknown dataset 'beir/nfcopus/test'. Did you mean 'beir/nfcorpus",
    ),
    "measure": ({"measures": ["nDCG@ten"]}, "Unknown measure 'nDCG@ten'"),
    "pooling": ({"choices": Choices(pooling="mode")}, "Unknown --pooling 'mode'"),
    "similarity": ({"choices": Choices(similarity="l2")}, "Unknown --similarity 'l2'"),
    "split": ({"datasets": ["{root}/data:nowhere"]}, "nowhere"),
    "no queries": ({"datasets": ["{root}/documents"]}, "documents"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_argument_is_refused_before_a_model_is_loaded(
    kind: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, text = WRONG[kind]
    (root / "documents").mkdir(exist_ok=True)
    tiny.write_lines(root / "documents" / "corpus.jsonl", [{"_id": "1", "title": "", "text": "ba"}])
    monkeypatch.setattr(
        "retrobench.runs.evaluation.load_published", lambda name, choices: pytest.fail("the model was loaded")
    )
    datasets = [str(root / "data"), *(name.format(root=root) for name in arguments.get("datasets", []))]
    with pytest.raises(RetrobenchError) as refused:
        evaluate(
            str(root / "dot"),
            datasets,
            arguments.get("measures", []),
            arguments.get("choices", Choices()),
            tmp_path / "store",
        )
    assert text in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "store").exists()


def test_a_model_that_cannot_be_run_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match="Say it with --pooling"):
        evaluate(str(root / "bare"), [str(root / "data")], [], Choices(), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_an_index_has_runs_of_its_own_and_a_note(root: Path, tmp_path: Path) -> None:
    """A flat index has the scores of exact search and a recall of 1."""
    exact = run(root, tmp_path)
    evaluated = evaluate(str(root / "dot"), [str(root / "data")], MEASURES, Choices(), tmp_path, "Flat")
    (name,) = evaluated.scored
    assert evaluated.scored[name].measures == exact.scored[name].measures
    how = evaluated.searched[name]
    assert {how[key] for key in how if key.startswith("recall of the index@")} == {1.0} and how["index"] == "Flat"
    assert json.loads(evaluated.json())["searched"] == {name: how} and "searched" not in json.loads(exact.json())
    assert f"{name}: approximate search, stored float32, index Flat, recall of the index@10 1.0" in evaluated.text()
    for index, text in {"IVFx": ": could not parse", "PQ7": " of vectors of 16 numbers: .* multiple of"}.items():
        with pytest.raises(RetrobenchError, match=rf"^faiss makes no index '{index}'{text}"):
            evaluate(str(root / "dot"), [str(root / "data")], MEASURES, Choices(), tmp_path / index, index)
        assert not (tmp_path / index).exists()
