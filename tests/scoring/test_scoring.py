"""Scores of run files: by hand, by rule and by level, and against trec_eval's and others' published numbers."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrobench.data.datasets import load
from retrobench.errors import RetrobenchError
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.score import DEFAULT, Scored, score_file, score_hits

SHARED = Path(__file__).parents[3] / "shared"
CHECK = SHARED / "scorer-check"
SOURCE = pytest.mark.skipif(not CHECK.is_dir(), reason="needs ../shared/scorer-check, runs with published scores")


def written(folder: Path, text: str, name: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


QRELS = "q1 0 a 1\nq1 0 b 2\nq2 0 c 1\nq3 0 a 0\n"
# q1 ranks c, b, a, with a tie that the ids decide; q2 is missing; q9 is judged by nobody.
RUN = "q1 Q0 a 1 1 t\nq9 Q0 a 1 5 t\nq1 Q0 c 2 2.5 t\nq1 Q0 b 3 1 t\nq3 Q0 a 1 1 t\n"


def by_hand(folder: Path, level: int | None = None, measures: tuple[str, ...] = ("MRR@10", "nDCG@10")) -> Scored:
    run, qrels = written(folder, RUN, "run.trec"), written(folder, QRELS, "qrels.txt")
    return score_file(run, None, qrels, measures, level)


def collection(folder: Path, rule: str = "") -> Path:
    """The same judgements as a folder."""
    written(folder, "".join(f'{{"_id": "{d}", "title": "", "text": "of {d}"}}\n' for d in "abc"), "corpus.jsonl")
    written(folder, "".join(f'{{"_id": "q{q}", "text": "query {q}"}}\n' for q in (1, 2, 3)), "queries.jsonl")
    rows = [line.split() for line in QRELS.splitlines()]
    judged = "".join(f"{query}\t{document}\t{grade}\n" for query, _, document, grade in rows)
    written(folder, "query-id\tcorpus-id\tscore\n" + judged, "qrels/test.tsv")
    written(folder, rule, "dataset.toml")
    return folder


NDCG = (2 / math.log2(3) + 1 / 2) / (2 + 1 / math.log2(3))


def test_a_file_by_hand(tmp_path: Path) -> None:
    """Means are over the three judged queries: a missing one counts 0, and so does one without an answer."""
    found = by_hand(tmp_path)
    assert found.measures == pytest.approx({"MRR@10": 0.5 / 3, "nDCG@10": NDCG / 3})
    assert found.values["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}
    counts = (found.queries, found.missing, found.unjudged, found.unanswerable, found.ties, found.self_hits_removed)
    assert counts == (3, 1, 1, 1, 1, 0)


def test_the_document_is_the_score_object_and_its_values_are_unrounded(tmp_path: Path) -> None:
    found = by_hand(tmp_path)
    document = json.loads(found.json())
    assert list(document) == [
        *("run", "qrels", "relevance_level", "queries", "missing", "self_hits_removed", "ties", "measures"),
    ]
    assert (
        document
        == found.document()
        == {
            "run": str(tmp_path / "run.trec"),
            "qrels": str(tmp_path / "qrels.txt"),
            "relevance_level": 1,
            "queries": 3,
            "missing": 1,
            "self_hits_removed": 0,
            "ties": 1,
            "measures": {"MRR@10": 0.5 / 3, "nDCG@10": found.measures["nDCG@10"]},
        }
    )
    assert json.loads(found.json(per_query=True))["per_query"] == {
        "q1": {"MRR@10": 0.5, "nDCG@10": pytest.approx(NDCG)},
        "q2": {"MRR@10": 0.0, "nDCG@10": 0.0},
        "q3": {"MRR@10": 0.0, "nDCG@10": 0.0},
    }


def test_the_text_tells_what_was_done(tmp_path: Path) -> None:
    assert by_hand(tmp_path, level=2).text(per_query=True).splitlines() == [
        f"{tmp_path}/run.trec on {tmp_path}/qrels.txt",
        "",
        "MRR@10             0.1667",
        f"nDCG@10            {NDCG / 3:.4f}",
        "",
        "queries            3, all that are judged: the mean is over them",
        "missing            1",
        "unjudged           1 of the run's queries, left out",
        "unanswerable       2 without a relevant document, counted 0",
        "self-hits removed  0 (no rule asks for it)",
        "ties broken        1 hits, by document id",
        "relevance level    2 (--relevance-level); nDCG keeps grades, linear gain",
        "cross-checked      ranx = trec_eval on every query",
        "Warning: the run has no hit for 1 of 3 judged queries; each counts 0.",
        "",
        "query  MRR@10  nDCG@10",
        f"q1     0.5000   {NDCG:.4f}",
        "q2     0.0000   0.0000",
        "q3     0.0000   0.0000",
    ]


def test_a_dataset_brings_its_rule(tmp_path: Path) -> None:
    folder = collection(tmp_path / "data", 'relevance_level = 2\nmeasures = ["MRR@5"]\nnote = "Grades 0 to 2."\n')
    run = written(tmp_path, RUN, "run.trec")
    ruled, asked = score_file(run, str(folder), None, []), score_file(run, str(folder), None, ["RR", "MAP"], 1)
    assert (ruled.dataset, ruled.qrels, ruled.relevance_level) == (str(folder), None, 2)
    assert ruled.measures == pytest.approx({"MRR@5": 0.5 / 3}) and ruled.unanswerable == 2
    assert (
        "relevance level    2 (the dataset's rule); nDCG" in ruled.text()
        and "note               Grades" in ruled.text()
    )
    assert asked.measures == pytest.approx({"RR": 0.5 / 3, "MAP": (1 / 2 + 2 / 3) / 2 / 3})
    assert "relevance level    1 (--relevance-level; the dataset's rule is 2); nDCG" in asked.text()
    assert list(asked.document())[:2] == ["run", "dataset"]


def test_own_documents_leave_a_run_by_the_datasets_rule_alone(tmp_path: Path) -> None:
    """Judgements in a file know no rule: there equal ids are a coincidence."""
    run = written(tmp_path, RUN.replace("q1 ", "c "), "run.trec")  # query c finds document c first
    qrels = written(tmp_path, QRELS.replace("q1 ", "c "), "qrels.txt")
    scores = {}
    for name, rule in (("kept", ""), ("dropped", "drop_self = true\n")):
        folder = collection(tmp_path / name, rule)
        for file in (folder / "qrels" / "test.tsv", folder / "queries.jsonl"):
            file.write_text(file.read_text().replace("q1\t", "c\t").replace('"q1"', '"c"'))
        scores[name] = score_file(run, str(folder), None, ["RR"])
    scores["file"] = score_file(run, None, qrels, ["RR"])
    assert {name: found.values["RR"]["c"] for name, found in scores.items()} == {
        "kept": 0.5,
        "dropped": 1.0,
        "file": 0.5,
    }
    assert {name: found.self_hits_removed for name, found in scores.items()} == {"kept": 0, "dropped": 1, "file": 0}
    assert "self-hits removed  1 (the dataset's rule)" in scores["dropped"].text()


def test_hits_in_memory_score_as_their_file_does(tmp_path: Path) -> None:
    dataset = load(str(collection(tmp_path / "data")))
    rows, scores = np.asarray([[2, 1, 0], [0, -1, -1]], np.int32), np.asarray([[2.5, 1, 1], [1, -np.inf, -np.inf]])
    ranked = Ranking(rows, scores.astype(np.float32), 3, 1)
    found = score_hits("by hand", dataset, ["q1", "q3"], ["a", "b", "c"], ranked, ("MRR@10", "nDCG@10"))
    file = score_file(written(tmp_path, RUN, "run.trec"), dataset.id, None, ["MRR@10", "nDCG@10"])
    assert found.values == file.values and found.measures == file.measures
    assert found.document() == {**file.document(), "run": "by hand", "self_hits_removed": 3}
    assert score_hits("x", dataset, ["q1", "q3"], ["a", "b", "c"], ranked, ("RR",), 2).relevance_level == 2
    assert list(score_hits("x", dataset, ["q1", "q3"], ["a", "b", "c"], ranked, ()).measures) == [
        "nDCG@10",
        "Recall@100",
    ]


def test_a_list_without_a_hit_is_missing(tmp_path: Path) -> None:
    """As when the only hit was the query's own document."""
    ranked = Ranking(np.asarray([[0], [-1]], np.int32), np.asarray([[1], [-np.inf]], np.float32), 1, 0)
    dataset = load(str(collection(tmp_path)))
    assert score_hits("x", dataset, ["q1", "q2"], ["a", "b", "c"], ranked, ["RR"]).missing == 2


def test_a_scorer_that_says_the_same_of_all_is_told_of(tmp_path: Path) -> None:
    lines = [f"{query} Q0 {document} 1 0.5 t\n" for query in ("q1", "q2", "q3") for document in "abc"]
    found = score_file(written(tmp_path, "".join(lines), "run"), None, written(tmp_path, QRELS, "qrels"), ["RR"])
    assert (found.ties, found.constant) == (6, 3)
    assert found.values["RR"] == {"q1": 0.5, "q2": 1.0, "q3": 0.0}, "c, b, a: by id, the largest first"
    assert found.text().endswith("Warning: 3 queries have one score for all their hits: the ids alone ranked those.")
    assert by_hand(tmp_path / "other").constant == 0


def test_a_measure_that_looks_deeper_than_the_run_is_told_of(tmp_path: Path) -> None:
    lines = "".join(f"q1 Q0 d{n} {n} {100 - n} t\n" for n in range(1, 13))
    run, qrels = written(tmp_path, lines, "run.trec"), written(tmp_path, "q1 0 d12 1\n", "qrels.txt")
    found = score_file(run, None, qrels, ["Recall@10", "Recall@100", "RR"])
    assert found.measures == {"Recall@10": 0.0, "Recall@100": 1.0, "RR": 1 / 12}
    assert found.text().endswith("Warning: no list is longer than 12 hits, so Recall@100 read no deeper.")


def test_a_level_in_a_measures_name(tmp_path: Path) -> None:
    asked = ("RR@10", "RR(rel=2)@10", "MRR@10", "AP(rel=1)", "nDCG(dcg='log2')@10")
    assert list(by_hand(tmp_path, None, asked).measures) == ["MRR@10", "MRR(rel=2)@10", "MAP", "nDCG@10"]
    assert list(by_hand(tmp_path, 2, asked).measures) == ["MRR@10", "MAP(rel=1)", "nDCG@10"]


def test_measures_that_nobody_named(tmp_path: Path) -> None:
    assert tuple(by_hand(tmp_path, None, ()).measures) == DEFAULT


# Errors


@pytest.mark.parametrize("both", [False, True])
def test_judgements_come_from_exactly_one_place(both: bool, tmp_path: Path) -> None:
    run, qrels = written(tmp_path, RUN, "run"), written(tmp_path, QRELS, "qrels")
    with pytest.raises(
        RetrobenchError, match=r"^Give either --dataset ID or --qrels FILE: judgements come from exactly"
    ):
        score_file(run, "beir/arguana" if both else None, qrels if both else None, [])


def test_a_wrong_measure_is_told_before_anything_is_read(tmp_path: Path) -> None:
    qrels = written(tmp_path, QRELS, "qrels")
    with pytest.raises(RetrobenchError, match=r"^Unknown measure 'ndcg@10'\. Did you mean 'nDCG@10'\?"):
        score_file(tmp_path / "absent", None, qrels, ["MRR@10", "ndcg@10"])


def test_a_run_of_other_queries_is_refused(tmp_path: Path) -> None:
    qrels = written(tmp_path, "x1 0 a 1\n", "qrels")
    with pytest.raises(
        RetrobenchError, match=r"run has no query that .*qrels judges: the run begins with query 'q1', the"
    ):
        score_file(written(tmp_path, RUN, "run"), None, qrels, [])


def test_a_dataset_that_nobody_judged_is_refused(tmp_path: Path) -> None:
    folder = collection(tmp_path)
    written(folder, "query-id\tcorpus-id\tscore\n", "qrels/test.tsv")
    with pytest.raises(RetrobenchError, match="holds no judgements to score by"):
        score_file(written(tmp_path, RUN, "run.trec"), str(folder), None, [])


def test_conflicting_judgements_of_a_dataset_are_refused(tmp_path: Path) -> None:
    folder = collection(tmp_path / "data")
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\ta\t0\n")
    with pytest.raises(RetrobenchError, match=r"judges query 'q1' and document 'a' twice, as 1 and as 0"):
        score_file(written(tmp_path, RUN, "run"), str(folder), None, [])


# Published numbers


FIVE = ("nDCG@10", "MRR@10", "RR", "Recall@100", "MAP")


def published() -> list[dict[str, str]]:
    if not CHECK.is_dir():
        return []
    with (CHECK / "expected.tsv").open() as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def scored(of: dict[str, str], measures: tuple[str, ...]) -> Scored:
    run, level = CHECK / of["run"], int(of["binarise_at"])
    if of["qrels"] == "msmarco-dl-pool":
        return score_file(run, f"{SHARED / 'data' / 'msmarco-dl-pool'}:dl19", None, measures, level)
    name = "qrels.dl19-passage.txt" if of["qrels"] == "full" else of["qrels"]
    return score_file(run, None, CHECK / name, measures, level)


@SOURCE
def test_every_published_score_to_four_decimals() -> None:
    rows = published()
    assert len(rows) == 15
    for of in rows:
        found = scored(of, FIVE)
        assert {name: f"{value:.4f}" for name, value in found.measures.items()} == {name: of[name] for name in FIVE}, of
        assert (found.queries, found.missing) == (int(of["queries"]), 0)


def evaluated(file: Path) -> dict[str, dict[str, float]]:
    """trec_eval's own output: measure -> query -> value."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in file.read_text().splitlines():
        name, query, value = line.split()
        if name not in ("runid", "relstring"):
            found[name][query] = float(value)
    return found


# What trec_eval calls what we compute.
THEIRS = {
    "MAP": "map",
    "RR": "recip_rank",
    **{f"nDCG@{k}": f"ndcg_cut_{k}" for k in (5, 10, 20, 100, 1000)},
    **{f"Recall@{k}": f"recall_{k}" for k in (5, 10, 100, 1000)},
    **{f"Success@{k}": f"success_{k}" for k in (1, 5, 10)},
    **{f"MAP@{k}": f"map_cut_{k}" for k in (10, 100)},
}
OUTPUTS = {
    "trec_eval.results.test": "trec_eval.out.test.aq",
    "runs/dlhard.bm25.run": "dlhard.bm25.eval",
    "runs/dlhard.bm25-t5zs.run": "dlhard.bm25-t5zs.eval",
}


@SOURCE
@pytest.mark.parametrize("run", OUTPUTS)
def test_every_query_as_trec_eval_itself_printed_it(run: str) -> None:
    (of,) = [row for row in published() if row["run"] == run]
    theirs = evaluated(CHECK / OUTPUTS[run])
    names = tuple(name for name, text in THEIRS.items() if text in theirs)
    assert {"MAP", "RR", "nDCG@10", "Recall@100", "Success@5"} <= set(names)
    found = scored(of, names)
    for name in names:
        values: dict[str, Any] = dict(theirs[THEIRS[name]])
        mean = values.pop("all")
        assert len(values) >= 3 and values.keys() <= found.values[name].keys()
        ours = {query: round(value, 4) for query, value in found.values[name].items() if query in values}
        assert ours == pytest.approx(values, abs=1.01e-4), name
        assert np.mean(list(found.values[name].values())) * found.queries / len(values) == pytest.approx(mean, abs=6e-5)


@SOURCE
def test_a_zipped_run_under_any_name_scores_the_same(tmp_path: Path) -> None:
    of = published()[0]
    zipped = tmp_path / "run"
    zipped.write_bytes(gzip.compress((CHECK / of["run"]).read_bytes()))
    found = score_file(zipped, None, CHECK / "qrels.dl19-passage.txt", ["nDCG@10"], 2)
    assert f"{found.measures['nDCG@10']:.4f}" == of["nDCG@10"]
