"""Measures of a run: their means over all judged queries, their values per query, and facts about the data."""

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

REVISION = 2  # increased when equal settings begin to give other facts


def score(work: Work, dataset_id: str, run: Artifact) -> Artifact:
    """Return the scores of a run, in three files.

    `scores.json` has the mean of each measure, `per_query.json` the value of each measure and query, by the track's
    names. `facts.json` has the counts, with hashes of corpus and qrels.
    """
    experiment = work.experiment
    collection = work.inputs.collections[dataset_id]
    names = experiment.track.evaluate.measures
    rule = collection.dataset.rule
    level = rule.relevance_level

    def make(folder: Path) -> dict[str, float]:
        query_ids, document_ids, ranked = read_run(run.path)
        scored = score_hits(experiment.entrant.name, collection.dataset, query_ids, document_ids, ranked, names)
        facts = {
            **scored.document(),
            "documents": len(document_ids),
            "corpus": collection.corpus.hash,
            "qrels": collection.qrels_hash,
            **search_facts(run.path),
        }
        for name in ("run", "dataset", "measures"):  # a row has fields of its own for these
            del facts[name]
        means = {}
        values = {}
        for name in names:
            measure = canonical(name, level)
            means[name] = scored.measures[measure]
            values[name] = scored.values[measure]
        _write(folder / "scores.json", means, 1)
        _write(folder / "per_query.json", values)
        _write(folder / "facts.json", facts, 1)
        return {"queries": float(scored.queries)}

    recipe = {
        "revision": REVISION,
        "measures": list(names),
        "dataset": collection.hash,
        "relevance_level": level,
        "rules": rule.departures(),
    }
    label = f"score {experiment.entrant.name} on {collection.id}"
    return work.store.ensure("score", recipe, [run], make, dataset=collection.id, label=label)


def _write(file: Path, document: object, indent: int | None = None) -> None:
    file.write_text(json.dumps(document, indent=indent) + "\n")


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def scores(scored: Artifact) -> dict[str, float]:
    """Return the mean of each measure."""
    means: dict[str, float] = _read(scored.path / "scores.json")
    return means


def per_query(scored: Artifact) -> Mapping[str, Mapping[str, float]]:
    """Return the value of each measure and query."""
    values: Mapping[str, Mapping[str, float]] = _read(scored.path / "per_query.json")
    return values


def facts(scored: Artifact) -> dict[str, Any]:
    """Return the counts and hashes behind the numbers."""
    facts: dict[str, Any] = _read(scored.path / "facts.json")
    return facts
