"""A collection with an id or a grade that tools cannot read ends `run` and `evaluate` before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import published
import pytest
import tiny

from retrobench.errors import RetrobenchError
from retrobench.runs import Choices, evaluate
from retrobench.runs.sweep import Request, sweep

QUERY = "q70"  # of the test split


def rename(file: Path, old: str, new: str) -> None:
    """Give a document or a query of a JSON Lines file another id."""
    lines = []
    for line in file.read_text().splitlines():
        row = json.loads(line)
        if row["_id"] == old:
            row["_id"] = new
        lines.append(json.dumps(row) + "\n")
    file.write_text("".join(lines))


def spoil_document(data: Path) -> None:
    rename(data / "corpus.jsonl", "d57", "d\x00005")


def spoil_query(data: Path) -> None:
    rename(data / "queries.jsonl", QUERY, f"{QUERY}\u2028")
    qrels = data / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace(f"{QUERY}\t", f"{QUERY}\u2028\t"))


def spoil_grade(data: Path) -> None:
    qrels = data / "qrels" / "test.tsv"
    lines = qrels.read_text().splitlines()
    lines[-1] = lines[-1].rpartition("\t")[0] + "\t1001"
    qrels.write_text("\n".join(lines) + "\n")


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "document": (spoil_document, r"has document ids that no TREC file can carry .*: 'd\\x00005'"),
    "query": (spoil_query, r"has query ids that no TREC file can carry .*: 'q70\\u2028'"),
    "grade": (spoil_grade, r"has grades beyond 1,000 .*: 1001 for query"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_run_and_evaluate_read_the_collection_first(kind: str, tmp_path: Path) -> None:
    spoil, message = SPOILED[kind]
    track = tiny.make(tmp_path)
    spoil(track.data)
    for objective in ("mlm", "bm25"):
        with pytest.raises(RetrobenchError, match=message):
            sweep(Request([objective], str(track.track), (0,), (), track.store, track.boards))
    model = published.sentence(tmp_path / "model")
    with pytest.raises(RetrobenchError, match=message):
        evaluate(str(model), [f"{track.data}:test"], [], Choices(), track.store)
    assert not list(track.store.glob("*/*"))
    assert not track.rows()
