"""The whole program on one page: what becomes of an objective. Read this first."""

from __future__ import annotations

from typing import NamedTuple

from retrobench import stages
from retrobench.experiment import Experiment
from retrobench.store import Artifact, Store

__all__ = ["Result", "run"]


class Result(NamedTuple):
    """Scores by dataset, the encoder behind them, and how it was chosen."""

    scored: dict[str, Artifact]
    encoder: Artifact | None
    chosen: str
    selection: dict[str, float]


def run(x: Experiment, store: Store) -> Result:
    """One experiment from start to end; a stage that the store already holds is read, not run."""
    datasets, depth = x.track.evaluate.datasets, x.track.evaluate.depth
    if x.entrant.representation == "bm25":
        runs = {name: stages.lexical(x, store, name, depth) for name in datasets}
        return Result({name: stages.score(x, store, runs[name], name) for name in datasets}, None, "", {})

    pretrained = stages.pretrain(x, store)
    rounds = {"in-batch": stages.finetune(x, store, pretrained)}
    if x.track.mine.depth:
        negatives = stages.mine(x, store, rounds["in-batch"])
        # From the pre-trained encoder again, not from the first round's: RetroMAE's and BoW's recipes agree on it.
        rounds["mined"] = stages.finetune(x, store, pretrained, negatives)
    chosen, selection = stages.choose(x, store, rounds)
    runs = {name: stages.search(x, store, rounds[chosen], name, depth) for name in datasets}
    scored = {name: stages.score(x, store, runs[name], name) for name in datasets}
    return Result(scored, rounds[chosen], chosen, selection)
