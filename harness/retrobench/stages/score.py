"""A run to measures: the mean over all judged queries, a value for each, and what identifies the numbers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrobench.config import Experiment
from retrobench.data import Dataset, digest, load
from retrobench.retrieval import search_facts
from retrobench.scoring import canonical, read_run, score_hits
from retrobench.store import Artifact, Store

__all__ = ["facts", "per_query", "score", "scores"]


def score(x: Experiment, store: Store, run: Artifact, dataset_id: str) -> Artifact:
    """`scores.json`, measure -> mean, and `per_query.json`, measure -> query -> value, by the track's names for them;
    `facts.json`, the score object without measures, with the number of documents and hashes of corpus and qrels."""
    dataset, names = load(dataset_id), x.track.evaluate.measures
    level = dataset.rule.relevance_level
    corpus, qrels, everything = _hashes(dataset, dataset.stamp())

    def make(folder: Path) -> dict[str, float]:
        queries, ids, ranked = read_run(run.path)
        scored = score_hits(x.entrant.name, dataset, queries, ids, ranked, names)
        called = {name: canonical(name, level) for name in names}
        about = scored.document()
        about |= {"documents": len(ids), "corpus": corpus, "qrels": qrels, **search_facts(run.path)}
        del about["run"], about["measures"]
        _write(folder / "scores.json", {name: scored.measures[of] for name, of in called.items()}, 1)
        _write(folder / "per_query.json", {name: scored.values[of] for name, of in called.items()})
        _write(folder / "facts.json", about, 1)
        return {"queries": float(scored.queries)}

    recipe = {"measures": list(names), "dataset": everything} | ({"relevance_level": level} if level > 1 else {})
    return store.ensure("score", recipe, [run], make, label=f"score {x.entrant.name} on {dataset_id}")


@functools.cache  # a run scores a dataset several times, and millions of documents take minutes
def _hashes(dataset: Dataset, stamp: tuple[int, ...]) -> tuple[str, str, str]:
    """SHA-256 of the corpus, of the qrels, and of both with the queries."""
    corpus, qrels = dataset.corpus_fingerprint(), dataset.qrels_fingerprint()
    return corpus, qrels, digest([corpus, dataset.queries_fingerprint(), qrels])


def _write(file: Path, document: object, indent: int | None = None) -> None:
    file.write_text(json.dumps(document, indent=indent) + "\n")


def scores(scored: Artifact) -> dict[str, float]:
    """Measure -> mean."""
    found: dict[str, float] = json.loads((scored.path / "scores.json").read_text())
    return found


def per_query(scored: Artifact) -> Mapping[str, Mapping[str, float]]:
    """Measure -> query -> value."""
    found: Mapping[str, Mapping[str, float]] = json.loads((scored.path / "per_query.json").read_text())
    return found


def facts(scored: Artifact) -> dict[str, Any]:
    """What identifies the numbers; nothing where a store of before has none."""
    file = scored.path / "facts.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
