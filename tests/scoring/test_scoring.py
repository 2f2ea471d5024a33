"""Scores of run files and of hits in memory: by hand, by rule and by level."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny

from retrobench.data.datasets import Dataset, load
from retrobench.errors import RetrobenchError
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.score import DEFAULT, Scored, score_file, score_hits


def write(folder: Path, text: str, name: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


QRELS = "q1 0 a 1\nq1 0 b 2\nq2 0 c 1\nq3 0 a 0\n"
# q1 ranks c, b, a, with a tie that the ids decide. q2 is missing. q9 has no judgement.
RUN = "q1 Q0 a 1 1 t\nq9 Q0 a 1 5 t\nq1 Q0 c 2 2.5 t\nq1 Q0 b 3 1 t\nq3 Q0 a 1 1 t\n"


def by_hand(folder: Path, level: int | None = None, measures: tuple[str, ...] = ("MRR@10", "nDCG@10")) -> Scored:
    run = write(folder, RUN, "run.trec")
    qrels = write(folder, QRELS, "qrels.txt")
    return score_file(run, None, qrels, measures, level)


def score_by_dataset(folder: Path, rule: str = "", measures: Sequence[str] = (), level: int | None = None) -> Scored:
    """Score RUN by a dataset with the judgements of QRELS and this rule."""
    run = write(folder, RUN, "run.trec")
    data = collection(folder / "data", rule)
    return score_file(run, str(data), None, measures, level)


def collection(folder: Path, rule: str = "") -> Path:
    """Write a collection with the judgements of QRELS."""
    documents = [{"_id": name, "title": "", "text": f"of {name}"} for name in "abc"]
    queries = [{"_id": name, "text": f"query {name}"} for name in ("q1", "q2", "q3")]
    qrels = folder / "qrels"
    qrels.mkdir(parents=True)
    tiny.write_lines(folder / "corpus.jsonl", documents)
    tiny.write_lines(folder / "queries.jsonl", queries)
    (qrels / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t2\nq2\tc\t1\nq3\ta\t0\n")
    write(folder, rule, "dataset.toml")
    return folder


NDCG = (2 / math.log2(3) + 1 / 2) / (2 + 1 / math.log2(3))


def test_a_file_by_hand(tmp_path: Path) -> None:
    """Means are over the three judged queries; a missing query and one without a relevant document count 0."""
    scored = by_hand(tmp_path)
    assert scored.measures == pytest.approx({"MRR@10": 0.5 / 3, "nDCG@10": NDCG / 3})
    assert scored.values["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}


def test_counts_by_hand(tmp_path: Path) -> None:
    scored = by_hand(tmp_path)
    assert scored.queries == 3
    assert scored.missing == 1
    assert scored.unjudged == 1
    assert scored.unanswerable == 1
    assert scored.ties == 1
    assert scored.self_hits_removed == 0


def test_the_score_object_is_in_order_and_unrounded(tmp_path: Path) -> None:
    scored = by_hand(tmp_path)
    document = json.loads(scored.json())
    expected = {
        "run": str(tmp_path / "run.trec"),
        "qrels": str(tmp_path / "qrels.txt"),
        "relevance_level": 1,
        "queries": 3,
        "missing": 1,
        "self_hits_removed": 0,
        "excluded_removed": 0,
        "ties": 1,
        "dangling_documents": None,
        "dangling_queries": None,
        "rules": [],
        "measures": {"MRR@10": 0.5 / 3, "nDCG@10": scored.measures["nDCG@10"]},
    }
    assert list(document) == list(expected)
    assert document == expected
    assert document == scored.document()


def test_the_score_object_of_every_query(tmp_path: Path) -> None:
    document = json.loads(by_hand(tmp_path).json(per_query=True))
    assert document["per_query"] == {
        "q1": {"MRR@10": 0.5, "nDCG@10": pytest.approx(NDCG)},
        "q2": {"MRR@10": 0.0, "nDCG@10": 0.0},
        "q3": {"MRR@10": 0.0, "nDCG@10": 0.0},
    }


def test_the_text_shows_measures_and_counts(tmp_path: Path) -> None:
    text = by_hand(tmp_path, level=2).text(per_query=True)
    lines = text.splitlines()
    assert lines[0] == f"{tmp_path}/run.trec on {tmp_path}/qrels.txt"
    assert "MRR@10             0.1667" in lines
    assert f"nDCG@10            {NDCG / 3:.4f}" in lines
    assert "relevance level    2 (--relevance-level)" in text
    counts = {"queries": 3, "missing": 1, "unjudged": 1, "unanswerable": 2, "self-hits removed": 0, "ties broken": 1}
    for name, count in counts.items():
        assert re.search(rf"^{name}  +{count}\b", text, re.MULTILINE), name
    assert "Warning: the run has no hit for 1 of 3 judged queries; each counts 0." in lines
    assert lines[-4:] == [
        "query  MRR@10  nDCG@10",
        f"q1     0.5000   {NDCG:.4f}",
        "q2     0.0000   0.0000",
        "q3     0.0000   0.0000",
    ]


RULE = 'relevance_level = 2\nmeasures = ["MRR@5"]\nnote = "Grades 0 to 2."\n'


def test_a_dataset_brings_its_rule(tmp_path: Path) -> None:
    scored = score_by_dataset(tmp_path, RULE)
    assert scored.dataset == str(tmp_path / "data")
    assert scored.qrels is None
    assert scored.relevance_level == 2
    assert scored.unanswerable == 2
    assert scored.measures == pytest.approx({"MRR@5": 0.5 / 3})
    text = scored.text()
    assert "relevance level    2 (the dataset's rule)" in text
    assert "note               Grades" in text


def test_the_user_overrides_the_rule(tmp_path: Path) -> None:
    scored = score_by_dataset(tmp_path, RULE, ["RR", "MAP"], level=1)
    average_precision = (1 / 2 + 2 / 3) / 2
    assert scored.measures == pytest.approx({"RR": 0.5 / 3, "MAP": average_precision / 3})
    assert "relevance level    1 (--relevance-level; the dataset's rule is 2)" in scored.text()
    assert list(scored.document())[:2] == ["run", "dataset"]


@pytest.mark.parametrize(("rule", "reciprocal_rank", "removed"), [("", 0.5, 0), ("drop_self = true\n", 1.0, 1)])
def test_own_documents_leave_a_run_by_the_datasets_rule(
    rule: str, reciprocal_rank: float, removed: int, tmp_path: Path
) -> None:
    run = write(tmp_path, RUN.replace("q1 ", "c "), "run.trec")  # query c has document c first
    folder = collection(tmp_path / "data", rule)
    for file in (folder / "qrels" / "test.tsv", folder / "queries.jsonl"):
        text = file.read_text()
        text = text.replace("q1\t", "c\t").replace('"q1"', '"c"')
        file.write_text(text)
    scored = score_file(run, str(folder), None, ["RR"])
    assert scored.values["RR"]["c"] == reciprocal_rank
    assert scored.self_hits_removed == removed
    assert f"self-hits removed  {removed} (" in scored.text()


def test_own_documents_stay_without_a_dataset(tmp_path: Path) -> None:
    """A file of judgements has no rule: there equal ids are a coincidence."""
    run = write(tmp_path, RUN.replace("q1 ", "c "), "run.trec")
    qrels = write(tmp_path, QRELS.replace("q1 ", "c "), "qrels.txt")
    scored = score_file(run, None, qrels, ["RR"])
    assert scored.values["RR"]["c"] == 0.5
    assert scored.self_hits_removed == 0


IDS = ["a", "b", "c"]


def ranking_by_hand() -> Ranking:
    """Return the ranking of RUN for q1 and q3."""
    rows = np.asarray([[2, 1, 0], [0, -1, -1]], np.int32)
    scores = np.asarray([[2.5, 1, 1], [1, -np.inf, -np.inf]], np.float32)
    return Ranking(rows, scores, self_hits=3, ties=1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = collection(tmp_path / "data")
    return load(str(folder))


def test_hits_in_memory_score_as_their_file_does(dataset: Dataset, tmp_path: Path) -> None:
    names = ["MRR@10", "nDCG@10"]
    run = write(tmp_path, RUN, "run.trec")
    file = score_file(run, dataset.id, None, names)
    hits = score_hits("by hand", dataset, ["q1", "q3"], IDS, ranking_by_hand(), names)
    assert hits.values == file.values
    assert hits.measures == file.measures
    counts = {"self_hits_removed": 3, "dangling_documents": 0, "dangling_queries": 1}
    assert hits.document() == {**file.document(), "run": "by hand", **counts}


def test_level_and_measures_of_hits_in_memory(dataset: Dataset) -> None:
    ranking = ranking_by_hand()
    at_level_2 = score_hits("by hand", dataset, ["q1", "q3"], IDS, ranking, ("RR",), 2)
    assert at_level_2.relevance_level == 2
    by_rule = score_hits("by hand", dataset, ["q1", "q3"], IDS, ranking, ())
    assert list(by_rule.measures) == ["nDCG@10", "Recall@100"]


def test_a_list_without_a_hit_is_missing(dataset: Dataset) -> None:
    """So it is when the only hit was the query's own document."""
    rows = np.asarray([[0], [-1]], np.int32)
    scores = np.asarray([[1], [-np.inf]], np.float32)
    ranking = Ranking(rows, scores, self_hits=1, ties=0)
    scored = score_hits("by hand", dataset, ["q1", "q2"], IDS, ranking, ["RR"])
    assert scored.missing == 2


def test_lists_of_one_score_are_counted(tmp_path: Path) -> None:
    lines = []
    for query in ("q1", "q2", "q3"):
        for document in IDS:
            lines.append(f"{query} Q0 {document} 1 0.5 t\n")
    run = write(tmp_path, "".join(lines), "run")
    qrels = write(tmp_path, QRELS, "qrels")
    scored = score_file(run, None, qrels, ["RR"])
    assert scored.ties == 6
    assert scored.constant == 3
    assert scored.values["RR"] == {"q1": 0.5, "q2": 1.0, "q3": 0.0}  # c, b, a: by id, the largest first
    assert "Warning: 3 queries have one score" in scored.text()


def test_lists_of_several_scores_are_not_counted(tmp_path: Path) -> None:
    scored = by_hand(tmp_path)
    assert scored.constant == 0
    assert "one score" not in scored.text()


def test_a_measure_deeper_than_the_run_gives_a_warning(tmp_path: Path) -> None:
    lines = [f"q1 Q0 d{rank} {rank} {100 - rank} t\n" for rank in range(1, 13)]
    run = write(tmp_path, "".join(lines), "run.trec")
    qrels = write(tmp_path, "q1 0 d12 1\n", "qrels.txt")
    scored = score_file(run, None, qrels, ["Recall@10", "Recall@100", "RR"])
    assert scored.measures == {"Recall@10": 0.0, "Recall@100": 1.0, "RR": 1 / 12}
    warning = scored.text().splitlines()[-1]
    assert "12 hits" in warning
    assert "Recall@100" in warning
    assert "Recall@10 " not in warning


def test_a_level_in_a_measures_name(tmp_path: Path) -> None:
    measures = ("RR@10", "RR(rel=2)@10", "MRR@10", "AP(rel=1)", "nDCG(dcg='log2')@10")
    at_level_1 = by_hand(tmp_path, None, measures)
    assert list(at_level_1.measures) == ["MRR@10", "MRR(rel=2)@10", "MAP", "nDCG@10"]
    at_level_2 = by_hand(tmp_path, 2, measures)
    assert list(at_level_2.measures) == ["MRR@10", "MAP(rel=1)", "nDCG@10"]


def test_default_measures(tmp_path: Path) -> None:
    scored = by_hand(tmp_path, None, ())
    assert tuple(scored.measures) == DEFAULT


# Errors


@pytest.mark.parametrize(("dataset", "qrels"), [(None, None), ("beir/arguana", "qrels")])
def test_judgements_come_from_exactly_one_place(dataset: str | None, qrels: str | None, tmp_path: Path) -> None:
    run = write(tmp_path, RUN, "run")
    judgements = None
    if qrels is not None:
        judgements = write(tmp_path, QRELS, qrels)
    with pytest.raises(RetrobenchError, match=r"^Give either --dataset ID or --qrels FILE"):
        score_file(run, dataset, judgements, [])


def test_a_wrong_measure_is_reported_before_the_run_is_read(tmp_path: Path) -> None:
    qrels = write(tmp_path, QRELS, "qrels")
    with pytest.raises(RetrobenchError, match=r"^Unknown measure 'ndcg@10'\. Did you mean 'nDCG@10'\?"):
        score_file(tmp_path / "absent", None, qrels, ["MRR@10", "ndcg@10"])


def test_a_run_of_other_queries_is_refused(tmp_path: Path) -> None:
    run = write(tmp_path, RUN, "run")
    qrels = write(tmp_path, "x1 0 a 1\n", "qrels")
    with pytest.raises(RetrobenchError, match=r"run has no query .*qrels .* query 'q1', .* 'x1'"):
        score_file(run, None, qrels, [])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no judgements to score by"),
        ("q1\ta\t1\nq1\ta\t0\n", r"query 'q1' and document 'a' twice, as 1 and as 0"),
    ],
)
def test_absent_and_conflicting_judgements_of_a_dataset_are_refused(lines: str, message: str, tmp_path: Path) -> None:
    run = write(tmp_path, RUN, "run.trec")
    folder = collection(tmp_path / "data")
    write(folder / "qrels", f"query-id\tcorpus-id\tscore\n{lines}", "test.tsv")
    with pytest.raises(RetrobenchError, match=message):
        score_file(run, str(folder), None, [])


def test_the_bounds_leave_unjudged_hits_out_before_the_cut(tmp_path: Path) -> None:
    """q1 ranks three unjudged documents above the relevant one."""
    lines = [f"q1 Q0 {document} 1 {9 - rank} t\n" for rank, document in enumerate(["x", "y", "z", "a"])]
    run = write(tmp_path, "".join(lines), "run.trec")
    qrels = write(tmp_path, "q1 0 a 1\n", "qrels.txt")
    plain = score_file(run, None, qrels, ["MRR@2", "RR", "Judged@2"])
    assert plain.left_out is None
    assert "bounds" not in plain.document()
    scored = score_file(run, None, qrels, ["MRR@2", "RR", "Judged@2"], bounds=True)
    assert scored.measures == plain.measures == {"MRR@2": 0.0, "RR": 0.25, "Judged@2": 0.0}
    assert scored.document()["bounds"] == {
        "MRR@2": {"unjudged_irrelevant": 0.0, "unjudged_left_out": 1.0},
        "RR": {"unjudged_irrelevant": 0.25, "unjudged_left_out": 1.0},
    }
    assert "left out of the rankings: MRR@2 1.0000, RR 1.0000" in scored.text()


def test_graded_judgements_without_a_dataset_say_their_level(tmp_path: Path) -> None:
    by_default = by_hand(tmp_path).text()
    assert "grades reach 2" in by_default
    assert "--relevance-level 2" in by_default
    assert "grades reach" not in by_hand(tmp_path, level=2).text()


def test_judgements_without_document_or_query_are_counted(dataset: Dataset) -> None:
    """The corpus given lacks b and c, and the queries lack q2."""
    ranking = Ranking(np.asarray([[0], [0]], np.int32), np.ones((2, 1), np.float32), self_hits=0, ties=0)
    scored = score_hits("by hand", dataset, ["q1", "q3"], ["a"], ranking, ["RR"])
    assert (scored.dangling_documents, scored.dangling_queries) == (2, 1)
    assert scored.document()["dangling_documents"] == 2
    text = scored.text()
    assert "2 judgements name documents that the corpus lacks." in text
    assert "1 judged queries have no text; each counts 0." in text
