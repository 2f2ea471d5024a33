"""Runs, judgements, vectors and collections of a few lines, as files, for the tests of the evaluation pitfalls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ir_datasets
import laid
import numpy as np
import pytest

from retrobench.leaderboard.reproduce import reproduce
from retrobench.leaderboard.rows import Row
from retrobench.scoring.score import Scored, score_file

Hits = Mapping[str, str | Mapping[str, object]]  # query -> documents in ranked order, or with their scores
Qrels = Mapping[str, Mapping[str, object]]


def write(folder: Path, hits: Hits, qrels: Qrels) -> tuple[Path, Path]:
    """A run and its judgements in TREC's format."""
    run, judged, lines = folder / "run.trec", folder / "qrels.txt", []
    for query, of in hits.items():
        documents = of.split() if isinstance(of, str) else list(of)
        scores = range(len(documents), 0, -1) if isinstance(of, str) else of.values()
        lines += [f"{query} Q0 {document} 0 {score} tag\n" for document, score in zip(documents, scores, strict=True)]
    run.write_text("".join(lines))
    judged.write_text("".join(f"{query} 0 {document} {grade}\n" for query, document, grade in rows(qrels)))
    return run, judged


def score(folder: Path, hits: Hits, qrels: Qrels, *names: str, level: int | None = None) -> Scored:
    """The score of such a run against such judgements."""
    run, judged = write(folder, hits, qrels)
    return score_file(run, None, judged, names, level)


def rows(qrels: Qrels) -> list[tuple[str, str, object]]:
    return [(query, document, grade) for query, of in qrels.items() for document, grade in of.items()]


def lay(folder: Path, vectors: Sequence[Sequence[float]]) -> Path:
    """A folder with float32 vectors."""
    return laid.lay(folder, np.asarray(vectors, np.float32))


def collection(folder: Path, ids: str, qrels: Qrels, description: str = "") -> Path:
    """A collection in BEIR's layout, each text its own id, under the rule that `description` gives it."""
    (folder / "qrels").mkdir(parents=True)
    for name, keys in (("corpus", ids.split()), ("queries", list(qrels))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"_id": key, "text": key}) + "\n" for key in keys))
    lines = [f"{query}\t{document}\t{grade}\n" for query, document, grade in rows(qrels)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    (folder / "dataset.toml").write_text(description)
    return folder


def catalogued(name: str, folder: Path, ids: str, qrels: Qrels, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have ir_datasets find such a collection under an id of its own, with what it knows of that id; the judgements."""
    home = folder / "catalogue"
    home.mkdir(exist_ok=True)
    files = {part: home / f"{part}.txt" for part in ("docs", "queries", "qrels")}
    for part, keys in (("docs", ids.split()), ("queries", list(qrels))):
        files[part].write_text("".join(f"{key}\ttext of {key}\n" for key in keys))
    files["qrels"].write_text("".join(f"{query} 0 {document} {grade}\n" for query, document, grade in rows(qrels)))
    monkeypatch.setenv("IR_DATASETS_HOME", str(home))
    monkeypatch.delitem(ir_datasets.registry._registered, name, raising=False)
    ir_datasets.registry.register(name, ir_datasets.create_dataset(*map(str, files.values())))
    return files["qrels"]


def reproduced(folder: Path, measured: Sequence[Row], table: str) -> list[dict[str, Any]]:
    """The cells of a table of claims, held against such rows."""
    (folder / "rows.jsonl").write_text("".join(f"{row.to_json()}\n" for row in measured))
    found = json.loads(reproduce(table, "json", folder / "rows.jsonl", folder).text)
    return [cell for part in found["parts"] for cell in part["cells"]]


def claimed(folder: Path, dataset: str, published: float, needs: str) -> str:
    """A table of one claim: MRR@10 of bert on a dataset, measured on what `needs` says; its id."""
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
