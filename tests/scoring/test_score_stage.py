"""The stage that scores a run: its scores, facts and settings, and changes that score again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import works

from retrobench.config.track import Evaluate
from retrobench.data.datasets import load
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.runfiles import write_run
from retrobench.stages.score import facts, per_query, score, scores
from retrobench.store.store import Artifact


def scored_by(names: Sequence[str], store: Path, run: Path, dataset_id: str) -> Artifact:
    experiment = works.experiment(evaluate=Evaluate(("unused",), measures=tuple(names)))
    work = works.work(store, dataset_id, on=experiment)
    return score(work, dataset_id, works.artifact("search", run))


def collection(folder: Path) -> Path:
    """Write three documents and three judged queries, one of them without a relevant document."""
    (folder / "qrels").mkdir(parents=True)
    documents = [json.dumps({"_id": name, "title": "", "text": f"text of {name}"}) for name in "abc"]
    queries = [json.dumps({"_id": name, "text": f"query {name}"}) for name in ("q1", "q2", "q3")]
    (folder / "corpus.jsonl").write_text("\n".join(documents))
    (folder / "queries.jsonl").write_text("\n".join(queries))
    judged = "query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t2\nq2\tc\t1\nq3\ta\t0\n"
    (folder / "qrels" / "test.tsv").write_text(judged)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write a run in which q1 and q3 rank c, b, a and a, b, c."""
    folder = tmp_path / "run"
    folder.mkdir()
    rows = np.asarray([[2, 1, 0], [0, 1, 2]], np.int32)
    ranking = Ranking(rows, np.asarray([[3, 2, 1]] * 2, np.float32), self_hits=4, ties=0)
    write_run(folder, ["q1", "q3"], ["a", "b", "c"], ranking, "by hand")
    return folder


def test_scores_of_the_stage_by_hand(run: Path, tmp_path: Path) -> None:
    """q1 ranks c, b, a; q2 is missing; q3 has no relevant document: the mean is over all three."""
    folder = collection(tmp_path / "collection")
    scored = scored_by(("nDCG@10", "MRR@10", "Recall@2"), tmp_path / "store", run, str(folder))
    ndcg = (2 / math.log2(3) + 1 / 2) / (2 + 1 / math.log2(3))
    assert scores(scored) == pytest.approx({"nDCG@10": ndcg / 3, "MRR@10": 0.5 / 3, "Recall@2": 0.5 / 3})
    assert per_query(scored)["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}
    for values in per_query(scored).values():
        assert list(values) == ["q1", "q2", "q3"]
    assert scored.cost["queries"] == 3


def test_facts_and_settings_of_the_stage(run: Path, tmp_path: Path) -> None:
    folder = collection(tmp_path / "collection")
    scored = scored_by(("nDCG@10", "MRR@10", "Recall@2"), tmp_path / "store", run, str(folder))
    dataset = load(str(folder))
    assert facts(scored) == {
        "relevance_level": 1,
        "queries": 3,
        "missing": 1,
        "self_hits_removed": 4,
        "ties": 0,
        "documents": 3,
        "corpus": dataset.corpus_fingerprint(),
        "qrels": dataset.qrels_fingerprint(),
    }
    entry = json.loads((scored.path / "entry.json").read_text())
    assert entry["settings"] == {
        "measures": ["nDCG@10", "MRR@10", "Recall@2"],
        "dataset": dataset.fingerprint(),
        "relevance_level": 1,
    }


def test_other_judgements_or_measures_are_scored_again(run: Path, tmp_path: Path) -> None:
    folder = collection(tmp_path / "collection")
    store = tmp_path / "store"
    assert not scored_by(("MRR@10",), store, run, str(folder)).cached
    assert scored_by(("MRR@10",), store, run, str(folder)).cached
    assert not scored_by(("RR",), store, run, str(folder)).cached
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q3\tb\t1\n")
    again = scored_by(("MRR@10",), store, run, str(folder))
    assert not again.cached
    assert per_query(again)["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.5}


def test_the_stage_follows_the_datasets_level_and_keeps_the_tracks_names(tmp_path: Path) -> None:
    """q1 ranks c, a, b, where a has grade 1 and b grade 2."""
    folder = collection(tmp_path / "collection")
    (folder / "dataset.toml").write_text("relevance_level = 2\n")
    run = tmp_path / "run"
    run.mkdir()
    ranking = Ranking(np.asarray([[2, 0, 1]], np.int32), np.asarray([[3, 2, 1]], np.float32), 0, 0)
    write_run(run, ["q1"], ["a", "b", "c"], ranking, "by hand")
    names = ("RR(rel=2)@10", "MRR@10", "RR(rel=1)@10", "AP")
    scored = scored_by(names, tmp_path / "store", run, str(folder))
    expected = {"RR(rel=2)@10": 1 / 9, "MRR@10": 1 / 9, "RR(rel=1)@10": 1 / 6, "AP": 1 / 9}
    assert scores(scored) == pytest.approx(expected)
    assert list(per_query(scored)) == list(expected)
    assert facts(scored)["relevance_level"] == 2
