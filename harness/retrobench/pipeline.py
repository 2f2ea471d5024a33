"""The whole program on one page: an objective from corpus to scores. Read this first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from retrobench import stages
from retrobench.config import Experiment
from retrobench.data import Collection
from retrobench.store import Artifact, Source, Store

__all__ = ["Result", "pretrain", "run"]

VALIDATION_DEPTH = 100  # documents per validation query; the choice of a round needs no more


class Result(NamedTuple):
    """The artifacts that a row is made of."""

    scores: dict[str, Artifact]  # of the test datasets, by id
    encoder: Artifact | None = None  # None for a baseline
    round: str = ""  # of fine-tuning, by which the encoder was made
    validation: Mapping[str, Artifact] = MappingProxyType({})  # the scores by which the round was chosen, by round


def run(experiment: Experiment, inputs: stages.Inputs, store: Store) -> Iterator[Result]:
    """Run one experiment and yield a result for each row. A stage that the store holds already is read, not run."""
    work, evaluate = stages.Work(experiment, inputs, store), experiment.track.evaluate
    tests = [inputs.collections[name] for name in experiment.datasets]
    if inputs.base is None:
        yield Result({test.id: stages.score(work, test, stages.search_bm25(work, test)) for test in tests})
        return
    encoders: dict[str, Artifact] = {}
    for name, encoder in _finetune(work, pretrain(work, inputs.base.model)):
        encoders[name] = encoder
        if evaluate.rounds == "every":
            yield Result({test.id: _score(work, test, encoder, evaluate.depth) for test in tests}, encoder, name)
    if evaluate.rounds == "chosen":
        validation = {}
        if evaluate.select and len(encoders) > 1:
            selection = inputs.collections[evaluate.select]
            validation = {name: _score(work, selection, encoders[name], VALIDATION_DEPTH) for name in encoders}
        name = stages.choose(encoders, validation, evaluate.measures[0])
        scores = {test.id: _score(work, test, encoders[name], evaluate.depth) for test in tests}
        yield Result(scores, encoders[name], name, validation)


def pretrain(work: stages.Work, encoder: Source) -> Source:
    """Return the encoder after the track's pre-training sections; `encoder` itself where none takes place."""
    for section, settings in work.experiment.pretraining.items():  # pretrain, adapt
        corpora = [work.inputs.collections[name].corpus for name in settings.corpus]
        documents = [stages.tokenise_documents(work, corpus, settings.titles) for corpus in corpora]
        encoder = stages.pretrain(work, section, encoder, documents)
    return encoder


def _finetune(work: stages.Work, start: Source) -> Iterator[tuple[str, Artifact]]:
    """Yield the encoder of each round. Every round begins at `start`, as in RetroMAE's and BoW's recipes."""
    track, collections = work.experiment.track, work.inputs.collections
    reading, collection = track.finetune.reading, collections[track.finetune.queries]
    documents = stages.tokenise_documents(work, collection.corpus, reading.titles)
    texts = stages.TrainingTexts(collection, documents, stages.tokenise_queries(work, collection))
    listed = stages.collect_negatives(work, texts, collections[track.finetune.hard]) if track.finetune.hard else None
    first = stages.finetune(work, start, texts, "in-batch", listed)
    yield "in-batch", first
    if track.mine.queries and (track.mine.depth or track.distil.on):
        texts = texts._replace(queries=stages.sample_queries(work, texts, track.mine.queries))
    mined = None
    if track.mine.depth:
        queries = stages.encode(work, first, texts.queries, "query", reading)
        mined = stages.mine(work, texts, queries, stages.encode(work, first, documents, "passage", reading))
        yield "mined", stages.finetune(work, start, texts, "mined", mined)
    if track.distil.on:
        yield "distilled", stages.finetune(work, start, texts, "distilled", stages.teach(work, texts, mined))


def _score(work: stages.Work, test: Collection, encoder: Artifact, depth: int) -> Artifact:
    reading = work.experiment.track.test_reading
    documents = stages.tokenise_documents(work, test.corpus, reading.titles)
    queries = stages.encode(work, encoder, stages.tokenise_queries(work, test), "query", reading)
    passages = stages.encode(work, encoder, documents, "passage", reading)
    return stages.score(work, test, stages.search(work, test, queries, passages, depth))
