"""Which of the fine-tuning rounds goes to the test: the one that does best on the validation queries."""

from __future__ import annotations

from collections.abc import Mapping

from retrobench.config import Experiment
from retrobench.stages.score import score, scores
from retrobench.stages.search import search
from retrobench.store import Artifact, Store

__all__ = ["choose"]

DEPTH = 100  # documents per validation query; choosing needs no more


def choose(x: Experiment, store: Store, rounds: Mapping[str, Artifact]) -> tuple[str, dict[str, float]]:
    """The chosen round and the main measure of each; without a validation dataset the last round, unmeasured."""
    dataset_id = x.track.evaluate.select
    if not dataset_id or len(rounds) == 1:
        return list(rounds)[-1], {}
    found = {}
    for name, encoder in rounds.items():
        run = search(x, store, encoder, dataset_id, DEPTH)
        found[name] = scores(score(x, store, run, dataset_id))[x.track.evaluate.measures[0]]
    return max(reversed(found), key=lambda name: found[name]), found
