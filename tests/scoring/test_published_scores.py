"""Scores of published runs equal the published numbers, and each query's values those printed by trec_eval itself."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from pathlib import Path

import pytest

from retrobench.scoring.score import Scored, score_file

SHARED = Path(__file__).parents[3] / "shared"
CHECK = SHARED / "scorer-check"

pytestmark = pytest.mark.skipif(not CHECK.is_dir(), reason="needs ../shared/scorer-check, runs with published scores")

FIVE = ("nDCG@10", "MRR@10", "RR", "Recall@100", "MAP")


def published() -> list[dict[str, str]]:
    with (CHECK / "expected.tsv").open() as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def score_published(published_row: dict[str, str], measures: tuple[str, ...]) -> Scored:
    run = CHECK / published_row["run"]
    level = int(published_row["binarise_at"])
    qrels = published_row["qrels"]
    if qrels == "msmarco-dl-pool":
        pool = SHARED / "data" / "msmarco-dl-pool"
        return score_file(run, f"{pool}:dl19", None, measures, level)
    if qrels == "full":
        qrels = "qrels.dl19-passage.txt"
    return score_file(run, None, CHECK / qrels, measures, level)


def test_every_published_score_to_four_decimals() -> None:
    rows = published()
    assert len(rows) == 15
    for row in rows:
        scored = score_published(row, FIVE)
        for name in FIVE:
            mean = scored.measures[name]
            assert f"{mean:.4f}" == row[name], (row["run"], name)
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
    "nDCG@5": "ndcg_cut_5",
    "nDCG@10": "ndcg_cut_10",
    "nDCG@20": "ndcg_cut_20",
    "nDCG@100": "ndcg_cut_100",
    "nDCG@1000": "ndcg_cut_1000",
    "Recall@5": "recall_5",
    "Recall@10": "recall_10",
    "Recall@100": "recall_100",
    "Recall@1000": "recall_1000",
    "Success@1": "success_1",
    "Success@5": "success_5",
    "Success@10": "success_10",
    "MAP@10": "map_cut_10",
    "MAP@100": "map_cut_100",
}
OUTPUTS = {
    "trec_eval.results.test": "trec_eval.out.test.aq",
    "runs/dlhard.bm25.run": "dlhard.bm25.eval",
    "runs/dlhard.bm25-t5zs.run": "dlhard.bm25-t5zs.eval",
}


@pytest.mark.parametrize("run", OUTPUTS)
def test_every_query_as_trec_eval_itself_printed_it(run: str) -> None:
    (row,) = [row for row in published() if row["run"] == run]
    evaluation = read_evaluation(CHECK / OUTPUTS[run])
    names = tuple(name for name, trec_eval_name in TREC_EVAL_NAMES.items() if trec_eval_name in evaluation)
    assert {"MAP", "RR", "nDCG@10", "Recall@100", "Success@5"} <= set(names)
    scored = score_published(row, names)
    for name in names:
        values = scored.values[name]
        expected = evaluation[TREC_EVAL_NAMES[name]]
        expected_mean = expected.pop("all")
        assert len(expected) >= 3
        assert expected.keys() <= values.keys()
        for query, expected_value in expected.items():
            assert values[query] == pytest.approx(expected_value, abs=0.51e-4), (name, query)
        total = sum(values.values())  # queries that trec_eval leaves out count 0
        assert total / len(expected) == pytest.approx(expected_mean, abs=6e-5)


def test_a_zipped_run_under_any_name_scores_alike(tmp_path: Path) -> None:
    row = published()[0]
    plain = CHECK / row["run"]
    zipped = tmp_path / "run"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    scored = score_file(zipped, None, CHECK / "qrels.dl19-passage.txt", ["nDCG@10"], 2)
    ndcg = scored.measures["nDCG@10"]
    assert f"{ndcg:.4f}" == row["nDCG@10"]
