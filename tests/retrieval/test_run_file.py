"""The run file: ranx and trec_eval measure it as retrobench does; it keeps every bit of a score."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pytrec_eval
from vector_folders import lay, ranked

from retrobench.retrieval.searcher import Searcher, retrieve, search_facts
from retrobench.scoring import ranking
from retrobench.scoring.measures import measure
from retrobench.scoring.runfiles import read_run, write_run

RANX = """
import json, sys, ranx
run = ranx.Run.from_file(sys.argv[1], kind="trec")
ranx.evaluate(ranx.Qrels.from_file(sys.argv[2], kind="trec"), run, ["ndcg@10", "mrr", "recall@10", "map"])
print(json.dumps({name: dict(scores) for name, scores in run.scores.items()}))
"""


class _Run(NamedTuple):
    """A random run on disk, with random judgements."""

    file: Path
    qrels_file: Path
    qrels: dict[str, dict[str, int]]
    measures: dict[str, dict[str, float]]  # ours


def random_run(folder: Path) -> _Run:
    draw = np.random.default_rng(3)
    ids = [f"d{row}" for row in range(40)]
    queries = [f"q{row}" for row in range(25)]
    all_scores = draw.standard_normal((25, 40), np.float32)
    rows, scores = ranking.top(all_scores, 20, ranking.precedence(ids))
    write_run(folder, queries, ids, ranking.Ranking(rows, scores, 0, 0), "an entrant  of 100%")
    file = folder / "run.trec"
    first_line = file.read_text().splitlines()[0]
    best_id = ids[rows[0, 0]]
    assert first_line == f"q0 Q0 {best_id} 1 {scores[0, 0]:.9g} anentrantof100%"
    qrels: dict[str, dict[str, int]] = {}
    lines = []
    for query in queries:
        qrels[query] = {}
        for document in draw.choice(ids, 8, replace=False):
            grade = int(draw.integers(0, 4))
            qrels[query][str(document)] = grade
            lines.append(f"{query} 0 {document} {grade}\n")
    qrels_file = folder / "qrels.trec"
    qrels_file.write_text("".join(lines))
    measures = measure(queries, rows, ids, qrels, ["nDCG@10", "RR", "Recall@10", "MAP"])
    return _Run(file, qrels_file, qrels, measures)


def test_ranx_measures_the_same_from_the_run_file(tmp_path: Path) -> None:
    run = random_run(tmp_path)
    command = [sys.executable, "-c", RANX, str(run.file), str(run.qrels_file)]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}  # compiling ranx would take a minute
    process = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    theirs = json.loads(process.stdout)
    names = {"nDCG@10": "ndcg@10", "RR": "mrr", "Recall@10": "recall@10", "MAP": "map"}
    for name, their_name in names.items():
        assert run.measures[name] == pytest.approx(theirs[their_name], abs=1e-9)


def test_trec_eval_measures_the_same_from_the_run_file(tmp_path: Path) -> None:
    run = random_run(tmp_path)
    with run.file.open() as file:
        parsed = pytrec_eval.parse_run(file)
    assert len(parsed) == 25
    for scores in parsed.values():
        assert len(scores) == 20
    evaluator = pytrec_eval.RelevanceEvaluator(run.qrels, {"ndcg_cut.10", "recip_rank", "recall.10", "map"})
    theirs = evaluator.evaluate(parsed)
    names = {"nDCG@10": "ndcg_cut_10", "RR": "recip_rank", "Recall@10": "recall_10", "MAP": "map"}
    for name, their_name in names.items():
        assert run.measures[name].keys() == theirs.keys()
        for query, value in run.measures[name].items():
            assert value == pytest.approx(theirs[query][their_name], abs=1e-9)


def test_a_run_ends_where_a_list_does(tmp_path: Path) -> None:
    """The row -1 is left out of the file and stays in the arrays; the counts are read back."""
    rows = np.asarray([[1, 0], [0, -1], [-1, -1]], np.int32)
    scores = np.asarray([[2.5, 2.5], [1, -np.inf], [-np.inf, -np.inf]], np.float32)
    write_run(tmp_path, ["q1", "q2", "q3"], ["a", "b"], ranking.Ranking(rows, scores, 7, 1), "t")
    lines = (tmp_path / "run.trec").read_text().splitlines()
    assert lines == ["q1 Q0 b 1 2.5 t", "q1 Q0 a 2 2.5 t", "q2 Q0 a 1 1 t"]
    query_ids, ids, result = read_run(tmp_path)
    assert query_ids == ["q1", "q2", "q3"]
    assert ids == ["a", "b"]
    assert result.self_hits == 7
    assert result.ties == 1
    assert np.array_equal(result.rows, rows)
    assert np.array_equal(result.scores, scores)


def test_a_run_of_an_older_store_has_no_count_of_self_hits(tmp_path: Path) -> None:
    rows = np.zeros((1, 1), np.int32)
    scores = np.ones((1, 1), np.float32)
    write_run(tmp_path, ["q"], ["a"], ranking.Ranking(rows, scores, 7, 0), "t")
    file = tmp_path / "names.json"
    names = json.loads(file.read_text())
    del names["self_hits"]
    file.write_text(json.dumps(names))
    _, _, result = read_run(tmp_path)
    assert result.self_hits == 0


def test_a_run_keeps_every_bit_of_a_score(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    drawn = draw.standard_normal((2, 500)).astype(np.float32) * 1e3
    scores = -np.sort(-drawn)
    rows = np.tile(np.arange(500), (2, 1))
    ids = [f"d{row}" for row in range(500)]
    write_run(tmp_path, ["q 1", "é"], ids, ranking.Ranking(rows, scores, 0, 0), "x")
    text = (tmp_path / "run.trec").read_text(encoding="utf-8")
    scores_as_text = [line.split()[-2] for line in text.splitlines()]
    assert np.array_equal(np.asarray(scores_as_text, np.float32), scores.ravel())
    query_ids, _, result = read_run(tmp_path)
    assert query_ids == ["q 1", "é"]
    assert np.array_equal(result.rows, rows)
    assert np.array_equal(result.scores, scores)


def test_a_run_records_its_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The facts are the stored type and, for an index, its recall; its run holds canonical scores."""
    draw = np.random.default_rng(0)
    query_vectors = draw.standard_normal((20, 8)).astype(np.float32)
    passage_vectors = draw.standard_normal((300, 8)).astype(np.float32)
    queries = lay(tmp_path / "q", query_vectors)
    passages = lay(tmp_path / "p", passage_vectors)
    exact_run = tmp_path / "exact"
    exact_run.mkdir()
    retrieve(exact_run, Searcher(queries, passages), 30, "data", "x")
    assert search_facts(exact_run) == {"stored": "float32"}
    assert search_facts(tmp_path) == {}
    query_ids, ids, exact = read_run(exact_run)
    assert query_ids == [str(row) for row in range(20)]
    assert ids == [str(row) for row in range(300)]
    expected = ranked(queries, passages, query_ids, ids, 30)
    assert np.array_equal(exact.rows, expected.rows)

    index_run = tmp_path / "index"
    index_run.mkdir()
    retrieve(index_run, Searcher(queries, passages, index="HNSW4"), 30, "data", "x")
    facts = search_facts(index_run)
    recall = facts["recall of the index@30"]
    _, _, approximate = read_run(index_run)
    shares = []
    for rows, exact_rows in zip(approximate.rows, exact.rows, strict=True):
        shares.append(np.isin(rows, exact_rows).mean())
    assert facts["index"] == "HNSW4"
    assert recall == pytest.approx(np.mean(shares))
    assert f"recall of the index@30 {recall}" in capsys.readouterr().err
