"""The stage that scores a run: its scores, facts and settings, and changes that score again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import works

from retrobench.config.track import Evaluate
from retrobench.data.datasets import load
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.runfiles import write_run
from retrobench.stages.score import facts, per_query, score, scores
from retrobench.store.store import Artifact


def score_run(run: Path, dataset: Path, store: Path, *names: str) -> Artifact:
    """Score a run by a dataset with these measures."""
    experiment = works.experiment(evaluate=Evaluate(("unused",), measures=names))
    work = works.work(store, str(dataset), on=experiment)
    search = works.artifact("search", run)
    return score(work, str(dataset), search)


def collection(folder: Path) -> Path:
    """Write three documents and three judged queries, one of them without a relevant document."""
    (folder / "qrels").mkdir(parents=True)
    tiny.write_lines(folder / "corpus.jsonl", [{"_id": name, "text": f"text of {name}"} for name in "abc"])
    tiny.write_lines(folder / "queries.jsonl", [{"_id": name, "text": f"query {name}"} for name in ("q1", "q2", "q3")])
    judged = "query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t2\nq2\tc\t1\nq3\ta\t0\n"
    (folder / "qrels" / "test.tsv").write_text(judged)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write a run in which q1 and q3 rank c, b, a and a, b, c."""
    rows = [[2, 1, 0], [0, 1, 2]]
    return write_hits(tmp_path / "run", ["q1", "q3"], rows, self_hits=4)


def write_hits(folder: Path, queries: list[str], rows: list[list[int]], self_hits: int) -> Path:
    """Write a run over the documents a, b, c, with scores 3, 2, 1 for each query."""
    folder.mkdir()
    scores = np.asarray([[3, 2, 1]] * len(queries), np.float32)
    ranking = Ranking(np.asarray(rows, np.int32), scores, self_hits, ties=0)
    write_run(folder, queries, ["a", "b", "c"], ranking, "by hand")
    return folder


def test_scores_of_the_stage_by_hand(run: Path, tmp_path: Path) -> None:
    """q1 ranks c, b, a; q2 is missing; q3 has no relevant document: the mean is over all three."""
    dataset = collection(tmp_path / "collection")
    scored = score_run(run, dataset, tmp_path / "store", "nDCG@10", "MRR@10", "Recall@2")
    ndcg = (2 / math.log2(3) + 1 / 2) / (2 + 1 / math.log2(3))
    assert scores(scored) == pytest.approx({"nDCG@10": ndcg / 3, "MRR@10": 0.5 / 3, "Recall@2": 0.5 / 3})
    values = per_query(scored)
    assert values["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}
    for by_query in values.values():
        assert list(by_query) == ["q1", "q2", "q3"]
    assert scored.cost["queries"] == 3


def test_facts_and_settings_of_the_stage(run: Path, tmp_path: Path) -> None:
    folder = collection(tmp_path / "collection")
    dataset = load(str(folder))
    scored = score_run(run, folder, tmp_path / "store", "nDCG@10", "MRR@10", "Recall@2")
    assert facts(scored) == {
        "relevance_level": 1,
        "queries": 3,
        "missing": 1,
        "self_hits_removed": 4,
        "excluded_removed": 0,
        "ties": 0,
        "dangling_documents": 0,
        "dangling_queries": 1,
        "rules": [],
        "documents": 3,
        "corpus": dataset.corpus_fingerprint(),
        "qrels": dataset.qrels_fingerprint(),
    }
    entry = scored.path / "entry.json"
    settings = json.loads(entry.read_text())["settings"]
    assert settings == {
        "revision": 2,
        "rules": [],
        "measures": ["nDCG@10", "MRR@10", "Recall@2"],
        "dataset": dataset.fingerprint(),
        "relevance_level": 1,
    }


def test_other_judgements_or_measures_are_scored_again(run: Path, tmp_path: Path) -> None:
    dataset = collection(tmp_path / "collection")
    store = tmp_path / "store"
    first = score_run(run, dataset, store, "MRR@10")
    repeated = score_run(run, dataset, store, "MRR@10")
    other_measure = score_run(run, dataset, store, "RR")
    assert not first.cached
    assert repeated.cached
    assert not other_measure.cached
    with (dataset / "qrels" / "test.tsv").open("a") as file:
        file.write("q3\tb\t1\n")
    other_judgements = score_run(run, dataset, store, "MRR@10")
    assert not other_judgements.cached
    assert per_query(other_judgements)["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.5}


def test_the_stage_follows_the_datasets_level_and_keeps_the_tracks_names(tmp_path: Path) -> None:
    """q1 ranks c, a, b, where a has grade 1 and b grade 2."""
    dataset = collection(tmp_path / "collection")
    (dataset / "dataset.toml").write_text("relevance_level = 2\n")
    run = write_hits(tmp_path / "run", ["q1"], [[2, 0, 1]], self_hits=0)
    expected = {"RR(rel=2)@10": 1 / 9, "MRR@10": 1 / 9, "RR(rel=1)@10": 1 / 6, "AP": 1 / 9}
    scored = score_run(run, dataset, tmp_path / "store", *expected)
    assert scores(scored) == pytest.approx(expected)
    assert list(per_query(scored)) == list(expected)
    assert facts(scored)["relevance_level"] == 2
