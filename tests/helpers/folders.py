"""Small collections in BEIR's layout, written row by row, so that a test can put a fault into any row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

DOCUMENTS = [("d1", "Whales", "A whale is no fish."), ("d2", "", "Ships sail."), ("d3", "", "Nothing.")]
QUERIES = [("q1", "what is a whale"), ("q2", "ships")]
JUDGEMENTS = [("q1", "d1", 2), ("q2", "d2", 1), ("q2", "d3", 0)]

Rows = Sequence[tuple[object, ...]]


def write_lines(file: Path, lines: Iterable[object]) -> None:
    """Write text as it is, and values of all other types as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = []
    for line in lines:
        text = line
        if not isinstance(text, str):
            text = json.dumps(line)
        texts.append(text + "\n")
    file.write_text("".join(texts), encoding="utf-8")


def write_folder(
    folder: Path, documents: Rows = DOCUMENTS, queries: Rows = QUERIES, judgements: Rows = JUDGEMENTS
) -> str:
    """Write a collection with the split test, and return its dataset id."""
    corpus = [{"_id": key, "title": title, "text": text} for key, title, text in documents]
    query_lines = [{"_id": key, "text": text} for key, text in queries]
    qrels = ["query-id\tcorpus-id\tscore"]
    for judgement in judgements:
        qrels.append("\t".join(map(str, judgement)))
    write_lines(folder / "corpus.jsonl", corpus)
    write_lines(folder / "queries.jsonl", query_lines)
    write_lines(folder / "qrels/test.tsv", qrels)
    return str(folder)
