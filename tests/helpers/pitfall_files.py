"""Files with a few runs, judgements, vectors and documents, for the tests of the evaluation pitfalls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ir_datasets
import numpy as np
import pytest
import tiny
import vector_folders

from retrobench.leaderboard.reproduce import reproduce
from retrobench.leaderboard.rows import Row, append
from retrobench.scoring.score import Scored, score_file

Hits = Mapping[str, str | Mapping[str, object]]  # query -> documents in ranked order, or with their scores
Qrels = Mapping[str, Mapping[str, object]]


def write(folder: Path, hits: Hits, qrels: Qrels) -> tuple[Path, Path]:
    """Write a run and its judgements in TREC's format, and return both files."""
    run = folder / "run.trec"
    judgements = folder / "qrels.txt"
    lines = []
    for query, scores in hits.items():
        if isinstance(scores, str):
            documents = scores.split()
            descending = range(len(documents), 0, -1)
            scores = dict(zip(documents, descending, strict=True))
        for document, score in scores.items():
            lines.append(f"{query} Q0 {document} 0 {score} tag\n")
    run.write_text("".join(lines))
    judgements.write_text(_trec(qrels))
    return run, judgements


def _trec(qrels: Qrels) -> str:
    lines = []
    for query, document, grade in rows(qrels):
        lines.append(f"{query} 0 {document} {grade}\n")
    return "".join(lines)


def score(folder: Path, hits: Hits, qrels: Qrels, *names: str, level: int | None = None) -> Scored:
    """Score a run by judgements."""
    run, judgements = write(folder, hits, qrels)
    return score_file(run, None, judgements, names, level)


def rows(qrels: Qrels) -> list[tuple[str, str, object]]:
    """Return the judgements as query, document and grade."""
    judgements = []
    for query, grades in qrels.items():
        judgements += [(query, document, grade) for document, grade in grades.items()]
    return judgements


def lay(folder: Path, vectors: Sequence[Sequence[float]]) -> Path:
    """Write a folder of float32 vectors."""
    return vector_folders.lay(folder, np.asarray(vectors, np.float32))


def collection(folder: Path, ids: str, qrels: Qrels, description: str = "") -> Path:
    """Write a collection in BEIR's layout with ids as texts. `description` is its rule."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": key, "text": key} for key in ids.split()]
    queries = [{"_id": key, "text": key} for key in qrels]
    lines = ["query-id\tcorpus-id\tscore\n"]
    for query, document, grade in rows(qrels):
        lines.append(f"{query}\t{document}\t{grade}\n")
    tiny.write_lines(folder / "corpus.jsonl", documents)
    tiny.write_lines(folder / "queries.jsonl", queries)
    (folder / "qrels" / "test.tsv").write_text("".join(lines))
    (folder / "dataset.toml").write_text(description)
    return folder


def catalogued(name: str, folder: Path, ids: str, qrels: Qrels, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Register a collection with ir_datasets under a published id, and return the file of its judgements."""
    home = folder / "catalogue"
    home.mkdir(exist_ok=True)
    documents = home / "docs.txt"
    queries = home / "queries.txt"
    judgements = home / "qrels.txt"
    documents.write_text("".join(f"{key}\ttext of {key}\n" for key in ids.split()))
    queries.write_text("".join(f"{key}\ttext of {key}\n" for key in qrels))
    judgements.write_text(_trec(qrels))
    monkeypatch.setenv("IR_DATASETS_HOME", str(home))
    monkeypatch.delitem(ir_datasets.registry._registered, name, raising=False)
    dataset = ir_datasets.create_dataset(str(documents), str(queries), str(judgements))
    ir_datasets.registry.register(name, dataset)
    return judgements


def reproduced(folder: Path, measured: Sequence[Row], table: str) -> list[dict[str, Any]]:
    """Return the cells of a table of claims, compared with rows."""
    file = folder / "rows.jsonl"
    file.unlink(missing_ok=True)
    for row in measured:
        append(folder, row, {})
    report = reproduce(table, "json", file, folder)
    cells: list[dict[str, Any]] = []
    for section in json.loads(report.text)["parts"]:
        cells += section["cells"]
    return cells


def claimed(folder: Path, dataset: str, published: float, needs: str) -> str:
    """Write a table with one claim, bert's MRR@10 on a dataset with the facts `needs`, and return its id."""
    (folder / "demo").mkdir()
    (folder / "demo" / "claims.toml").write_text(f"""
        [dataset."{dataset}"]
        {needs}
        [[table]]
        id = "demo/table-1"
        title = "Demo"
        paper = "A paper"
        source = "Table 1"
        columns = ["{dataset} MRR@10"]
        rows = [{{ model = "BERT", entrant = "bert", values = [{published}] }}]
    """)
    return "demo/table-1"
