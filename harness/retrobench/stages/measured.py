"""What an encoder, or BM25, comes to on the test sets."""

from __future__ import annotations

from retrobench.config import Experiment
from retrobench.stages.lexical import lexical
from retrobench.stages.score import score
from retrobench.stages.search import search
from retrobench.store import Artifact, Store

__all__ = ["measured"]


def measured(x: Experiment, store: Store, encoder: Artifact | None = None) -> dict[str, Artifact]:
    """Dataset id -> its scores, texts being read as `[evaluate]` says; without an encoder those of BM25."""
    x, depth, found = x.at_test, x.track.evaluate.depth, {}
    for name in x.datasets:
        run = search(x, store, encoder, name, depth) if encoder else lexical(x, store, name, depth)
        found[name] = score(x, store, run, name)
    return found
