"""A run to measures: the mean over all judged queries, a value for each, and facts that identify the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrobench.retrieval import search_facts
from retrobench.scoring import canonical, read_run, score_hits
from retrobench.stages.work import Work
from retrobench.store import Artifact

__all__ = ["facts", "per_query", "score", "scores"]


def score(work: Work, dataset_id: str, run: Artifact) -> Artifact:
    """Return the scores of a run, in three files.

    `scores.json` maps each measure to its mean, and `per_query.json` each measure and query to a value, by the track's
    names. `facts.json` holds the counts behind them, with hashes of corpus and qrels.
    """
    experiment, collection = work.experiment, work.inputs.collections[dataset_id]
    names, level = experiment.track.evaluate.measures, collection.dataset.rule.relevance_level

    def make(folder: Path) -> dict[str, float]:
        query_ids, document_ids, ranked = read_run(run.path)
        scored = score_hits(experiment.entrant.name, collection.dataset, query_ids, document_ids, ranked, names)
        canonical_names = {name: canonical(name, level) for name in names}
        facts = {
            **scored.document(),
            "documents": len(document_ids),
            "corpus": collection.corpus.hash,
            "qrels": collection.qrels_hash,
            **search_facts(run.path),
        }
        for name in ("run", "dataset", "measures"):  # each stands elsewhere in a row
            del facts[name]
        means = {name: scored.measures[canonical_name] for name, canonical_name in canonical_names.items()}
        values = {name: scored.values[canonical_name] for name, canonical_name in canonical_names.items()}
        _write(folder / "scores.json", means, 1)
        _write(folder / "per_query.json", values)
        _write(folder / "facts.json", facts, 1)
        return {"queries": float(scored.queries)}

    recipe = {"measures": list(names), "dataset": collection.hash, "relevance_level": level}
    label = f"score {experiment.entrant.name} on {collection.id}"
    return work.store.ensure("score", recipe, [run], make, dataset=collection.id, label=label)


def _write(file: Path, document: object, indent: int | None = None) -> None:
    file.write_text(json.dumps(document, indent=indent) + "\n")


def scores(scored: Artifact) -> dict[str, float]:
    """Return the mean of each measure."""
    means: dict[str, float] = json.loads((scored.path / "scores.json").read_text())
    return means


def per_query(scored: Artifact) -> Mapping[str, Mapping[str, float]]:
    """Return the value of each measure and query."""
    values: Mapping[str, Mapping[str, float]] = json.loads((scored.path / "per_query.json").read_text())
    return values


def facts(scored: Artifact) -> dict[str, Any]:
    """Return the facts that identify the numbers."""
    facts: dict[str, Any] = json.loads((scored.path / "facts.json").read_text())
    return facts
