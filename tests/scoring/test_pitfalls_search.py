"""The evaluation pitfalls that moved published numbers, by number: vectors, hits and self-hits of a search."""

from __future__ import annotations

import math
from pathlib import Path

import faiss
import ir_datasets
import numpy as np
import pytest
from pitfall_files import catalogued, collection, lay, write
from vector_folders import ranked

from retrobench.data import Exclusions
from retrobench.data.rules import rule
from retrobench.errors import RetrobenchError
from retrobench.scoring import ranking
from retrobench.scoring.measures import measure
from retrobench.scoring.runfiles import write_run
from retrobench.scoring.score import score_file

# Vectors


FINITE = [[-1.0, 0.0], [-2.0, 0.0], [-3.0, 0.0]]
QUERY = [[1.0, 0.0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_pitfall_15_a_vector_that_is_not_finite_becomes_a_hit(value: float, tmp_path: Path) -> None:
    """It is refused by the name of its text."""
    finite = lay(tmp_path / "finite", FINITE)
    spoilt = lay(tmp_path / "spoilt", [*FINITE[:2], [value, 0.0]])
    queries = ["q1", "q2", "q3"]
    with pytest.raises(RetrobenchError, match=r"^The vector of document 'c' .* is not finite"):
        ranked(finite, spoilt, queries, ["a", "b", "c"], 2)
    with pytest.raises(RetrobenchError, match=r"^The vector of query 'q3' .* is not finite"):
        ranked(spoilt, finite, queries, ["a", "b", "c"], 2)


def test_pitfall_15_a_search_deeper_than_the_documents_is_filled_up(tmp_path: Path) -> None:
    """Five hits of three documents: each once, though all products are below the -1 that stood for NaN elsewhere."""
    query = lay(tmp_path / "q", QUERY)
    passages = lay(tmp_path / "p", FINITE)
    hits = ranked(query, passages, ["q"], ["a", "b", "c"], 5)
    assert hits.rows.tolist() == [[0, 1, 2]]
    assert hits.scores.tolist() == [[-1.0, -2.0, -3.0]]


def test_pitfall_15_minus_one_becomes_a_hit(tmp_path: Path) -> None:
    """faiss's -1, "nothing more", ends a list in the ranking, in a run file and in the scorer."""
    ids = ["a", "b", "c"]
    index = faiss.IndexFlatIP(2)
    index.add(np.asarray(FINITE[:2], np.float32))
    scores, rows = index.search(np.asarray(QUERY, np.float32), 5)
    assert rows.tolist() == [[0, 1, -1, -1, -1]]
    assert scores[0, 4] < -1e38
    large_at_the_end = np.where(rows < 0, 9.0, scores)
    settled = ranking.finish(rows, large_at_the_end, ranking.precedence(ids), 5)
    assert settled.rows.tolist() == [[0, 1, -1, -1, -1]]
    assert settled.scores.tolist() == [[-1.0, -2.0, -math.inf, -math.inf, -math.inf]]
    write_run(tmp_path, ["q"], ids, settled, "short")
    assert (tmp_path / "run.trec").read_text() == "q Q0 a 1 -1 short\nq Q0 b 2 -2 short\n"
    values = measure(["q"], settled.rows, ids, {"q": {"c": 1}}, ("RR", "Recall@10", "nDCG@10"))
    assert values == {"RR": {"q": 0.0}, "Recall@10": {"q": 0.0}, "nDCG@10": {"q": 0.0}}


def test_pitfall_16_a_single_query_fails(tmp_path: Path) -> None:
    """One query, one document, one measure, from vectors to a score."""
    query = lay(tmp_path / "q", [[2.0]])
    passage = lay(tmp_path / "p", [[0.5]])
    hits = ranked(query, passage, ["q"], ["d"], 10)
    assert hits.rows.tolist() == [[0]]
    assert hits.scores.tolist() == [[1.0]]
    write_run(tmp_path, ["q"], ["d"], hits, "one")
    data = collection(tmp_path / "data", "d", {"q": {"d": 1}})
    for name in ("nDCG@10", "MRR@10", "RR", "Recall@10"):
        scored = score_file(tmp_path / "run.trec", str(data), None, [name])
        assert scored.values == {name: {"q": 1.0}}


# Self-hits


def test_pitfall_17_own_documents_stay_in_arguana(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its own document the answer of each query moves up: ranks 1, 1 and 2, no longer 2, 1 and 3."""
    qrels = {"a": {"b": 1}, "b": {"c": 1}, "c": {"b": 1}}
    catalogued("beir/arguana", tmp_path, "a b c d", qrels, monkeypatch)
    run, judged = write(tmp_path, {"a": "a b", "b": "c d b", "c": "c d b"}, qrels)
    scored = score_file(run, "beir/arguana", None, ["RR", "nDCG@10"])
    assert scored.values["RR"] == {"a": 1.0, "b": 1.0, "c": 1 / 2}
    assert scored.self_hits_removed == 3
    assert "self-hits removed  3 (the dataset's rule)" in scored.text()
    # Judgements alone say nothing of it, and nothing is removed.
    plain = score_file(run, None, judged, ["RR"])
    assert plain.values["RR"] == {"a": 1 / 2, "b": 1.0, "c": 1 / 3}
    assert plain.self_hits_removed == 0


def test_pitfall_17_own_documents_go_by_chance_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In FiQA query 7 and document 7 have nothing to do with each other: the document stays, here the right one."""
    without_own = {name for name in ir_datasets.registry if rule(name).drop_self}
    assert without_own == {"beir/arguana", "beir/quora", "beir/quora/dev", "beir/quora/test"}
    catalogued("beir/fiqa/test", tmp_path, "7 8", {"7": {"7": 1}}, monkeypatch)
    run, _ = write(tmp_path, {"7": "7 8"}, {})
    scored = score_file(run, "beir/fiqa/test", None, ["RR"])
    assert scored.measures == {"RR": 1.0}
    assert scored.self_hits_removed == 0


def test_pitfall_17_a_list_is_one_short(tmp_path: Path) -> None:
    """Documents a to d score 4, 3, 2, 1: the first two for query a are b and c, for query x still a and b."""
    queries = lay(tmp_path / "q", [[1.0], [1.0]])
    passages = lay(tmp_path / "p", [[4.0], [3.0], [2.0], [1.0]])
    ids = ["a", "b", "c", "d"]
    hits = ranked(queries, passages, ["a", "x"], ids, 2, drop_self=True)
    assert hits.rows.tolist() == [[1, 2], [0, 1]]
    assert hits.scores.tolist() == [[3.0, 2.0], [4.0, 3.0]]
    assert hits.self_hits == 1
    # Query c has its own document right below the cut: nothing was removed that anybody would have seen.
    below_the_cut = ranked(queries, passages, ["c", "x"], ids, 2, drop_self=True)
    assert below_the_cut.self_hits == 0


def test_pitfall_17_the_callers_arrays_stay_unchanged() -> None:
    ids = ["a", "b", "c", "d"]
    rows = np.asarray([[0, 1, 2]], np.int32)
    scores = np.asarray([[3.0, 2.0, 1.0]], np.float32)
    removals = ranking.Removals.of(["a"], ids, Exclusions(own=True))
    settled = ranking.finish(rows, scores, ranking.precedence(ids), 2, removals)
    assert settled.rows.tolist() == [[1, 2]]
    assert rows.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[3.0, 2.0, 1.0]]
