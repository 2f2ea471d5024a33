"""Scores of run files: by hand, by rule and by level, and against published numbers of trec_eval and others."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from retrobench.data.datasets import load
from retrobench.errors import RetrobenchError
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.score import DEFAULT, Scored, score_file, score_hits

SHARED = Path(__file__).parents[3] / "shared"
CHECK = SHARED / "scorer-check"
SOURCE = pytest.mark.skipif(not CHECK.is_dir(), reason="needs ../shared/scorer-check, runs with published scores")


def write(folder: Path, text: str, name: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


QRELS = "q1 0 a 1\nq1 0 b 2\nq2 0 c 1\nq3 0 a 0\n"
# q1 ranks c, b, a, with a tie that the ids decide. q2 is missing. q9 has no judgement.
RUN = "q1 Q0 a 1 1 t\nq9 Q0 a 1 5 t\nq1 Q0 c 2 2.5 t\nq1 Q0 b 3 1 t\nq3 Q0 a 1 1 t\n"


def by_hand(folder: Path, level: int | None = None, measures: tuple[str, ...] = ("MRR@10", "nDCG@10")) -> Scored:
    run, qrels = write(folder, RUN, "run.trec"), write(folder, QRELS, "qrels.txt")
    return score_file(run, None, qrels, measures, level)


def collection(folder: Path, rule: str = "") -> Path:
    """Write a collection with the judgements of QRELS."""
    documents = [json.dumps({"_id": name, "title": "", "text": f"of {name}"}) for name in "abc"]
    queries = [json.dumps({"_id": name, "text": f"query {name}"}) for name in ("q1", "q2", "q3")]
    lines = ["query-id\tcorpus-id\tscore"]
    for line in QRELS.splitlines():
        query, _, document, grade = line.split()
        lines.append(f"{query}\t{document}\t{grade}")
    write(folder, "\n".join(documents), "corpus.jsonl")
    write(folder, "\n".join(queries), "queries.jsonl")
    write(folder, "\n".join(lines) + "\n", "qrels/test.tsv")
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
        "ties": 1,
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
    lines = by_hand(tmp_path, level=2).text(per_query=True).splitlines()
    assert lines[0] == f"{tmp_path}/run.trec on {tmp_path}/qrels.txt"
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in lines[2:13] if line)
    assert facts["MRR@10"] == "0.1667"
    assert facts["nDCG@10"] == f"{NDCG / 3:.4f}"
    counts = {"queries": 3, "missing": 1, "unjudged": 1, "unanswerable": 2, "self-hits removed": 0, "ties broken": 1}
    for name, count in counts.items():
        assert re.match(rf"{count}\b", facts[name]), name
    assert facts["relevance level"].startswith("2 (--relevance-level)")
    assert "Warning: the run has no hit for 1 of 3 judged queries; each counts 0." in lines
    assert lines[-4:] == [
        "query  MRR@10  nDCG@10",
        f"q1     0.5000   {NDCG:.4f}",
        "q2     0.0000   0.0000",
        "q3     0.0000   0.0000",
    ]


RULE = 'relevance_level = 2\nmeasures = ["MRR@5"]\nnote = "Grades 0 to 2."\n'


def test_a_dataset_brings_its_rule(tmp_path: Path) -> None:
    folder = collection(tmp_path / "data", RULE)
    scored = score_file(write(tmp_path, RUN, "run.trec"), str(folder), None, [])
    assert scored.dataset == str(folder)
    assert scored.qrels is None
    assert scored.relevance_level == 2
    assert scored.unanswerable == 2
    assert scored.measures == pytest.approx({"MRR@5": 0.5 / 3})
    assert "relevance level    2 (the dataset's rule)" in scored.text()
    assert "note               Grades" in scored.text()


def test_the_user_overrides_the_rule(tmp_path: Path) -> None:
    folder = collection(tmp_path / "data", RULE)
    scored = score_file(write(tmp_path, RUN, "run.trec"), str(folder), None, ["RR", "MAP"], 1)
    assert scored.measures == pytest.approx({"RR": 0.5 / 3, "MAP": (1 / 2 + 2 / 3) / 2 / 3})
    assert "relevance level    1 (--relevance-level; the dataset's rule is 2)" in scored.text()
    assert list(scored.document())[:2] == ["run", "dataset"]


@pytest.mark.parametrize(("rule", "reciprocal_rank", "removed"), [("", 0.5, 0), ("drop_self = true\n", 1.0, 1)])
def test_own_documents_leave_a_run_by_the_datasets_rule(
    rule: str, reciprocal_rank: float, removed: int, tmp_path: Path
) -> None:
    run = write(tmp_path, RUN.replace("q1 ", "c "), "run.trec")  # query c has document c first
    folder = collection(tmp_path / "data", rule)
    for file in (folder / "qrels" / "test.tsv", folder / "queries.jsonl"):
        file.write_text(file.read_text().replace("q1\t", "c\t").replace('"q1"', '"c"'))
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


def test_hits_in_memory_score_as_their_file_does(tmp_path: Path) -> None:
    dataset = load(str(collection(tmp_path / "data")))
    names = ["MRR@10", "nDCG@10"]
    hits = score_hits("by hand", dataset, ["q1", "q3"], IDS, ranking_by_hand(), names)
    file = score_file(write(tmp_path, RUN, "run.trec"), dataset.id, None, names)
    assert hits.values == file.values
    assert hits.measures == file.measures
    assert hits.document() == {**file.document(), "run": "by hand", "self_hits_removed": 3}


def test_level_and_measures_of_hits_in_memory(tmp_path: Path) -> None:
    dataset = load(str(collection(tmp_path / "data")))
    at_level_2 = score_hits("x", dataset, ["q1", "q3"], IDS, ranking_by_hand(), ("RR",), 2)
    assert at_level_2.relevance_level == 2
    by_rule = score_hits("x", dataset, ["q1", "q3"], IDS, ranking_by_hand(), ())
    assert list(by_rule.measures) == ["nDCG@10", "Recall@100"]


def test_a_list_without_a_hit_is_missing(tmp_path: Path) -> None:
    """So it is when the only hit was the query's own document."""
    ranking = Ranking(np.asarray([[0], [-1]], np.int32), np.asarray([[1], [-np.inf]], np.float32), 1, 0)
    dataset = load(str(collection(tmp_path)))
    assert score_hits("x", dataset, ["q1", "q2"], IDS, ranking, ["RR"]).missing == 2


def test_lists_of_one_score_are_counted(tmp_path: Path) -> None:
    lines = []
    for query in ("q1", "q2", "q3"):
        lines += [f"{query} Q0 {document} 1 0.5 t\n" for document in IDS]
    scored = score_file(write(tmp_path, "".join(lines), "run"), None, write(tmp_path, QRELS, "qrels"), ["RR"])
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
    assert list(by_hand(tmp_path, None, measures).measures) == ["MRR@10", "MRR(rel=2)@10", "MAP", "nDCG@10"]
    assert list(by_hand(tmp_path, 2, measures).measures) == ["MRR@10", "MAP(rel=1)", "nDCG@10"]


def test_default_measures(tmp_path: Path) -> None:
    assert tuple(by_hand(tmp_path, None, ()).measures) == DEFAULT


# Errors


@pytest.mark.parametrize("both", [False, True])
def test_judgements_come_from_exactly_one_place(both: bool, tmp_path: Path) -> None:
    run = write(tmp_path, RUN, "run")
    dataset = "beir/arguana" if both else None
    qrels = write(tmp_path, QRELS, "qrels") if both else None
    with pytest.raises(RetrobenchError, match=r"^Give either --dataset ID or --qrels FILE"):
        score_file(run, dataset, qrels, [])


def test_a_wrong_measure_is_reported_before_the_run_is_read(tmp_path: Path) -> None:
    qrels = write(tmp_path, QRELS, "qrels")
    with pytest.raises(RetrobenchError, match=r"^Unknown measure 'ndcg@10'\. Did you mean 'nDCG@10'\?"):
        score_file(tmp_path / "absent", None, qrels, ["MRR@10", "ndcg@10"])


def test_a_run_of_other_queries_is_refused(tmp_path: Path) -> None:
    qrels = write(tmp_path, "x1 0 a 1\n", "qrels")
    with pytest.raises(RetrobenchError, match=r"run has no query .*qrels .* query 'q1', .* 'x1'"):
        score_file(write(tmp_path, RUN, "run"), None, qrels, [])


def test_a_dataset_without_judgements_is_refused(tmp_path: Path) -> None:
    folder = collection(tmp_path)
    write(folder, "query-id\tcorpus-id\tscore\n", "qrels/test.tsv")
    with pytest.raises(RetrobenchError, match="holds no judgements to score by"):
        score_file(write(tmp_path, RUN, "run.trec"), str(folder), None, [])


def test_conflicting_judgements_of_a_dataset_are_refused(tmp_path: Path) -> None:
    folder = collection(tmp_path / "data")
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\ta\t0\n")
    with pytest.raises(RetrobenchError, match=r"query 'q1' and document 'a' twice, as 1 and as 0"):
        score_file(write(tmp_path, RUN, "run.trec"), str(folder), None, [])


# Published numbers


FIVE = ("nDCG@10", "MRR@10", "RR", "Recall@100", "MAP")


def published() -> list[dict[str, str]]:
    if not CHECK.is_dir():
        return []
    with (CHECK / "expected.tsv").open() as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def score_published(published_row: dict[str, str], measures: tuple[str, ...]) -> Scored:
    run = CHECK / published_row["run"]
    level = int(published_row["binarise_at"])
    qrels = published_row["qrels"]
    if qrels == "msmarco-dl-pool":
        return score_file(run, f"{SHARED / 'data' / 'msmarco-dl-pool'}:dl19", None, measures, level)
    if qrels == "full":
        qrels = "qrels.dl19-passage.txt"
    return score_file(run, None, CHECK / qrels, measures, level)


@SOURCE
def test_every_published_score_to_four_decimals() -> None:
    rows = published()
    assert len(rows) == 15
    for row in rows:
        scored = score_published(row, FIVE)
        for name in FIVE:
            assert f"{scored.measures[name]:.4f}" == row[name], (row["run"], name)
        assert scored.queries == int(row["queries"])
        assert scored.missing == 0


def read_evaluation(file: Path) -> dict[str, dict[str, float]]:
    """Read trec_eval's own output: measure -> query -> value."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for line in file.read_text().splitlines():
        name, query, value = line.split()
        if name not in ("runid", "relstring"):
            values[name][query] = float(value)
    return values


# Our measures by trec_eval's names.
TREC_EVAL_NAMES = {
    "MAP": "map",
    "RR": "recip_rank",
    **{f"nDCG@{cutoff}": f"ndcg_cut_{cutoff}" for cutoff in (5, 10, 20, 100, 1000)},
    **{f"Recall@{cutoff}": f"recall_{cutoff}" for cutoff in (5, 10, 100, 1000)},
    **{f"Success@{cutoff}": f"success_{cutoff}" for cutoff in (1, 5, 10)},
    **{f"MAP@{cutoff}": f"map_cut_{cutoff}" for cutoff in (10, 100)},
}
OUTPUTS = {
    "trec_eval.results.test": "trec_eval.out.test.aq",
    "runs/dlhard.bm25.run": "dlhard.bm25.eval",
    "runs/dlhard.bm25-t5zs.run": "dlhard.bm25-t5zs.eval",
}


@SOURCE
@pytest.mark.parametrize("run", OUTPUTS)
def test_every_query_as_trec_eval_itself_printed_it(run: str) -> None:
    (row,) = [row for row in published() if row["run"] == run]
    evaluation = read_evaluation(CHECK / OUTPUTS[run])
    names = tuple(name for name, trec_eval_name in TREC_EVAL_NAMES.items() if trec_eval_name in evaluation)
    assert {"MAP", "RR", "nDCG@10", "Recall@100", "Success@5"} <= set(names)
    scored = score_published(row, names)
    for name in names:
        expected = dict(evaluation[TREC_EVAL_NAMES[name]])
        expected_mean = expected.pop("all")
        assert len(expected) >= 3
        assert expected.keys() <= scored.values[name].keys()
        for query, value in expected.items():
            assert scored.values[name][query] == pytest.approx(value, abs=0.51e-4), (name, query)
        total = sum(scored.values[name].values())  # queries that trec_eval leaves out count 0
        assert total / len(expected) == pytest.approx(expected_mean, abs=6e-5)


@SOURCE
def test_a_zipped_run_under_any_name_scores_alike(tmp_path: Path) -> None:
    row = published()[0]
    zipped = tmp_path / "run"
    zipped.write_bytes(gzip.compress((CHECK / row["run"]).read_bytes()))
    scored = score_file(zipped, None, CHECK / "qrels.dl19-passage.txt", ["nDCG@10"], 2)
    assert f"{scored.measures['nDCG@10']:.4f}" == row["nDCG@10"]
