"""The whole program on one page: what becomes of an objective. Read this first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from retrobench import stages
from retrobench.config import Experiment
from retrobench.store import Artifact, Store

__all__ = ["Result", "run"]


class Result(NamedTuple):
    """What a row tells: scores by dataset, the encoder behind them, its round, and how that was chosen."""

    scored: dict[str, Artifact]
    encoder: Artifact | None
    round: str
    selection: dict[str, float]


def run(x: Experiment, store: Store) -> Iterator[Result]:
    """One experiment from start to end; a stage that the store already holds is read, not run."""
    if x.entrant.representation == "bm25":
        yield Result(stages.measured(x, store), None, "", {})
        return
    pretrained = stages.adapt(x, store, stages.pretrain(x, store))
    trained: dict[str, Artifact] = {}
    for name, encoder in _rounds(x, store, pretrained):
        trained[name], before = encoder, len(store.used)
        if x.track.evaluate.rounds == "every":
            yield Result(stages.measured(x, store, encoder), encoder, name, {})
            del store.used[before:]  # the next round owes nothing to this one's test
    if x.track.evaluate.rounds == "chosen":
        name, selection = stages.choose(x.at_test, store, trained)
        yield Result(stages.measured(x, store, trained[name]), trained[name], name, selection)


def _rounds(x: Experiment, store: Store, pretrained: Artifact) -> Iterator[tuple[str, Artifact]]:
    """Each from the pre-trained encoder again, not from the round before: RetroMAE's and BoW's recipes agree on it."""
    first = stages.finetune(x, store, pretrained, "in-batch", stages.negatives(x, store))
    yield "in-batch", first
    mined = stages.mine(x, store, first) if x.track.mine.depth else None
    if mined:
        yield "mined", stages.finetune(x, store, pretrained, "mined", mined)
    if x.track.distil.on:
        yield "distilled", stages.finetune(x, store, pretrained, "distilled", stages.teach(x, store, mined))
