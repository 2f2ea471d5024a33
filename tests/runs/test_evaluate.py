"""`evaluate`: numbers by hand, groups, rules, what is kept and what is refused before a model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
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
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection with titles, its twin by another name, and two models."""
    root = tmp_path_factory.mktemp("place")
    tiny.write_collection(root / "data")
    tiny.write_collection(root / "twin")
    published.sentence(root / "dot", says=DOT, normalize=False)
    published.bare(root / "bare")
    return root


def run(place: Path, store: Path, datasets: Sequence[str] = ("data",), **choices: Any) -> Evaluated:
    found = [name if "/" in name or name.startswith("pair") else str(place / name) for name in datasets]
    return evaluate(str(place / "dot"), found, MEASURES, Choices(**choices), store)


def by_hand(place: Path, drop: Callable[[str, str], bool] = lambda query, document: False) -> dict[str, float]:
    """Sentence-transformers' own vectors, a plain product, and the measures from their definitions."""
    data, model = load(str(place)), SentenceTransformer(str(place.parent / "dot"), device="cpu")
    documents = {d.id: f"{d.title} {d.text}".strip() for d in data.documents()}
    queries, ids = {q.id: q.text for q in data.queries()}, list(documents)
    passages = model.encode(list(documents.values()), prompt_name="passage")
    scores = model.encode(list(queries.values()), prompt_name="query") @ passages.T
    totals = dict.fromkeys(MEASURES, 0.0)
    for query, values in zip(queries, scores, strict=True):
        ranked = sorted(zip(values, (i.encode() for i in ids), ids, strict=True), reverse=True)
        hits = [name for _, _, name in ranked if not drop(query, name)]
        grades = load(str(place)).qrels()[query]
        gains = [grades.get(name, 0) / math.log2(rank + 2) for rank, name in enumerate(hits[:10])]
        ideal = [grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values(), reverse=True)[:10])]
        first = next((rank for rank, name in enumerate(hits[:10], 1) if name in grades), math.inf)
        found = sum(name in grades for name in hits[:5])
        values = (sum(gains) / sum(ideal), 1 / first, found / len(grades), float(found > 0))
        totals = {name: totals[name] + value for name, value in zip(MEASURES, values, strict=True)}
    return {name: total / len(queries) for name, total in totals.items()}


def test_the_numbers_are_those_of_a_computation_by_hand(place: Path, tmp_path: Path) -> None:
    found = run(place, tmp_path)
    (scored,) = found.scored.values()
    expected = by_hand(place / "data")
    assert scored.measures == pytest.approx(expected, abs=1e-9)
    assert len({*expected.values()} - {0.0, 1.0}) >= 3, "the comparison means something"
    assert (scored.queries, scored.missing, scored.self_hits_removed) == (15, 0, 0)


def test_what_is_computed_in_bf16_is_searched_all_the_same(place: Path, tmp_path: Path) -> None:
    """Stored in float32, near what float32 gives, and not it."""
    kept = {}
    for dtype in ("float32", "bfloat16"):
        (scored,) = run(place, tmp_path / dtype, dtype=dtype).scored.values()
        assert scored.measures == pytest.approx(by_hand(place / "data"), abs=0.1)
        folders = sorted((tmp_path / dtype / "embed").glob("*/manifest.json"), key=lambda file: file.read_text())
        found = [Vectors.open(file.parent) for file in folders]
        assert [(vectors.dtype, vectors.manifest["computed"]) for vectors in found] == [("float32", dtype)] * 2
        kept[dtype] = np.concatenate([vectors.dense(0, len(vectors)) for vectors in found])
    cosines = (kept["float32"] * kept["bfloat16"]).sum(1) / np.linalg.norm(kept["float32"], axis=1)
    cosines /= np.linalg.norm(kept["bfloat16"], axis=1)
    assert 0.99 < cosines.min() < 1 - 1e-7


def test_own_documents_go_where_the_datasets_rule_says_so(place: Path, tmp_path: Path) -> None:
    """Queries d0 to d14, each the text of the document of its id: found first, unless it is dropped."""
    data = tmp_path / "own"
    tiny.write_collection(data)
    texts = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    tiny.write_lines(data / "queries.jsonl", [{"_id": f"d{n}", "text": texts[n]["text"]} for n in range(15)])
    judged = "".join(f"d{n}\td{n + 1}\t1\n" for n in range(15))
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (tmp_path / "dot").symlink_to(place / "dot")
    (kept,) = run(tmp_path, tmp_path / "store", ["own"]).scored.values()
    assert kept.self_hits_removed == 0 and kept.measures == pytest.approx(by_hand(data), abs=1e-9)
    (data / "dataset.toml").write_text("drop_self = true\n")
    (dropped,) = run(tmp_path, tmp_path / "store", ["own"]).scored.values()
    expected = by_hand(data, lambda query, document: query == document)
    assert dropped.measures == pytest.approx(expected, abs=1e-9) and dropped.self_hits_removed == 15
    assert dropped.measures["nDCG@10"] > kept.measures["nDCG@10"]


def test_title_and_text_are_joined_by_a_space() -> None:
    from retrobench.data.datasets import Document

    join = _join_title
    assert join(Document("1", "Title", "text ")) == "Title text"
    assert join(Document("1", "Title", "")) == "Title"
    assert join(Document("1", "", " text ")) == " text "


def test_the_document_is_that_of_the_interface(place: Path, tmp_path: Path) -> None:
    document = json.loads(run(place, tmp_path, query_prefix="").json())
    assert list(document) == ["model", "settings", "datasets", "averages"]
    assert document["model"] == str(place / "dot") and document["averages"] == {}
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
    assert name == score["dataset"] == str(place / "data") and not others
    assert set(score["measures"]) == set(MEASURES) and score["relevance_level"] == 1
    assert Path(score["run"]).read_text().count("\n") == 15 * 60


def test_the_text_names_settings_counts_and_places(place: Path, tmp_path: Path) -> None:
    found = run(place, tmp_path, max_length=9)
    lines = [" ".join(line.split()) for line in found.text().splitlines()]
    assert lines[0] == f"Model {place / 'dot'}, files {found.key}"
    assert "pooling mean 1_Pooling/config.json" in lines and "max_length 9 --max-length" in lines
    assert "titles joined to the text by a space default" in lines
    (name, scored), *_ = found.scored.items()
    values = " ".join(f"{scored.measures[measure]:.4f}" for measure in MEASURES)
    assert f"dataset queries missing self-hits removed ties {' '.join(MEASURES)}" in lines
    assert f"{name} 15 0 0 {scored.ties} {values}" in lines
    assert f"{name} {scored.run}" in lines


def test_without_measures_each_dataset_has_its_own(place: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    tiny.write_collection(data)
    (data / "dataset.toml").write_text('measures = ["MRR@3", "MAP"]\nnote = "Made up."\n')
    found = evaluate(str(place / "dot"), [str(place / "data"), str(data)], [], Choices(), tmp_path / "store")
    assert [list(scored.measures) for scored in found.scored.values()] == [["nDCG@10", "Recall@100"], ["MRR@3", "MAP"]]
    assert f"{data}: Made up." in found.text().splitlines()


def test_a_complete_group_has_its_mean(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = (str(place / "data"), f"{place / 'twin'}:val")
    monkeypatch.setattr(rules, "GROUPS", {"pair": members})
    monkeypatch.setattr(rules, "MEANS", {"pair": "pair (mean of 2)"})
    found = run(place, tmp_path, ["pair"])
    assert list(found.scored) == list(members)
    one, other = (scored.measures["nDCG@10"] for scored in found.scored.values())
    assert one != other and found.averages["pair (mean of 2)"]["nDCG@10"] == pytest.approx((one + other) / 2)
    assert json.loads(found.json())["averages"] == found.averages
    (line,) = (line for line in found.text().splitlines() if line.startswith("pair (mean of 2)"))
    assert line.split()[4] == f"{found.averages['pair (mean of 2)']['nDCG@10']:.4f}"
    assert run(place, tmp_path, ["data"]).averages == {}


def test_what_is_in_the_store_is_read(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(place, tmp_path)
    embedded: list[tuple[str, int]] = []
    write = PublishedEncoder.write

    def counted(self: PublishedEncoder, folder: Path, texts: Any, total: int, kind: encoders.Kind, *rest: Any) -> Any:
        embedded.append((kind, total))
        return write(self, folder, texts, total, kind, *rest)

    monkeypatch.setattr(PublishedEncoder, "write", counted)
    assert run(place, tmp_path).json() == first.json() and not embedded
    # The twin's texts are the same: only its other queries are new.
    run(place, tmp_path, [f"{place / 'twin'}:val"])
    assert embedded == [("query", 15)]
    run(place, tmp_path, query_prefix="lo ")
    assert embedded[1:] == [("query", 15)]
    run(place, tmp_path, similarity="cos")
    assert embedded[2:] == [("passage", 60), ("query", 15)]


def test_a_run_reaches_as_deep_as_the_measures(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrobench.runs.evaluation.DEPTH", 7)
    depths = {"Recall@5": 7, "MAP": 7, "Recall@20": 20, "Recall@100": 60}
    for name, depth in depths.items():
        found = evaluate(str(place / "dot"), [str(place / "data")], [name], Choices(), tmp_path)
        (scored,) = found.scored.values()
        assert Path(scored.run).read_text().count("\n") == 15 * depth


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "dataset": (
        {"datasets": ["beir/nfcopus/test"]},
        "Unknown dataset 'beir/nfcopus/test'. Did you mean 'beir/nfcorpus",
    ),
    "measure": ({"measures": ["nDCG@ten"]}, "Unknown measure 'nDCG@ten'"),
    "pooling": ({"choices": Choices(pooling="mode")}, "Unknown --pooling 'mode'"),
    "similarity": ({"choices": Choices(similarity="l2")}, "Unknown --similarity 'l2'"),
    "split": ({"datasets": ["{place}/data:nowhere"]}, "nowhere"),
    "no queries": ({"datasets": ["{place}/documents"]}, "documents"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, text = WRONG[kind]
    (place / "documents").mkdir(exist_ok=True)
    tiny.write_lines(place / "documents" / "corpus.jsonl", [{"_id": "1", "title": "", "text": "ba"}])
    monkeypatch.setattr(
        "retrobench.runs.evaluation.load_published", lambda name, choices: pytest.fail("the model was loaded")
    )
    datasets = [str(place / "data"), *(name.format(place=place) for name in asked.get("datasets", []))]
    with pytest.raises(RetrobenchError) as refused:
        evaluate(
            str(place / "dot"), datasets, asked.get("measures", []), asked.get("choices", Choices()), tmp_path / "store"
        )
    assert text in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "store").exists()


def test_a_model_that_cannot_be_run_leaves_nothing_behind(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match="Say it with --pooling"):
        evaluate(str(place / "bare"), [str(place / "data")], [], Choices(), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_an_index_is_told_of_and_makes_runs_of_its_own(place: Path, tmp_path: Path) -> None:
    """A flat index misses nothing, so that the numbers are those of exact search; the recall is told of."""
    exact = run(place, tmp_path)
    found = evaluate(str(place / "dot"), [str(place / "data")], MEASURES, Choices(), tmp_path, "Flat")
    (name,) = found.scored
    assert found.scored[name].measures == exact.scored[name].measures
    how = found.searched[name]
    assert {how[key] for key in how if key.startswith("recall of the index@")} == {1.0} and how["index"] == "Flat"
    assert json.loads(found.json())["searched"] == {name: how} and "searched" not in json.loads(exact.json())
    assert f"{name}: approximate search, stored float32, index Flat, recall of the index@10 1.0" in found.text()
    for index, text in {"IVFx": ": could not parse", "PQ7": " of vectors of 16 numbers: .* multiple of"}.items():
        with pytest.raises(RetrobenchError, match=rf"^faiss makes no index '{index}'{text}"):
            evaluate(str(place / "dot"), [str(place / "data")], MEASURES, Choices(), tmp_path / index, index)
        assert not (tmp_path / index).exists()
