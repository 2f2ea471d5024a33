"""A run to measures: the mean over all judged queries, and a value for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from retrobench.data import load
from retrobench.experiment import Experiment
from retrobench.measures import deepest, measure
from retrobench.store import Artifact, Store

__all__ = ["per_query", "score", "scores"]


def score(x: Experiment, store: Store, run: Artifact, dataset_id: str) -> Artifact:
    """`scores.json`, measure -> mean, and `per_query.json`, measure -> query -> value."""
    dataset, names = load(dataset_id), x.track.evaluate.measures

    def make(folder: Path) -> dict[str, float]:
        hits = np.load(run.path / "rows.npy", mmap_mode="r")[:, : deepest(names)]
        about = json.loads((run.path / "names.json").read_text())
        values = measure(about["queries"], np.asarray(hits), about["documents"], dataset.qrels(), names)
        means = {name: float(np.mean(list(of.values()))) for name, of in values.items()}
        (folder / "scores.json").write_text(json.dumps(means, indent=1) + "\n")
        (folder / "per_query.json").write_text(json.dumps(values) + "\n")
        return {"queries": float(len(dataset.qrels()))}

    recipe = {"measures": list(names), "dataset": dataset.fingerprint()}
    return store.ensure("score", recipe, [run], make, label=f"score {x.entrant.name} on {dataset_id}")


def scores(scored: Artifact) -> dict[str, float]:
    """Measure -> mean."""
    found: dict[str, float] = json.loads((scored.path / "scores.json").read_text())
    return found


def per_query(scored: Artifact) -> Mapping[str, Mapping[str, float]]:
    """Measure -> query -> value."""
    found: Mapping[str, Mapping[str, float]] = json.loads((scored.path / "per_query.json").read_text())
    return found
