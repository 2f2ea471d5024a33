"""The whole program on one page: an objective from corpus to scores. Read this first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from retrobench import stages
from retrobench.config import Experiment
from retrobench.store import Artifact, Source, Store

__all__ = ["Result", "pretrain", "run"]


class Result(NamedTuple):
    """The artifacts of a row."""

    scores: dict[str, Artifact]  # by test dataset
    encoder: Artifact | None = None  # None for a baseline
    round: str = ""  # of fine-tuning, which made the encoder
    validation: Mapping[str, Artifact] = {}  # validation scores by round


def run(experiment: Experiment, inputs: stages.Inputs, store: Store) -> Iterator[Result]:
    """Run one experiment and yield a result for each row. Finished stages are read from the store."""
    work, evaluate, tests = stages.Work(experiment, inputs, store), experiment.track.evaluate, experiment.datasets
    if inputs.base is None:
        yield Result({test: stages.score(work, test, stages.search_bm25(work, test)) for test in tests})
        return
    encoders, validation = dict[str, Artifact](), dict[str, Artifact]()
    for name, encoder in _finetune(work, pretrain(work, inputs.base.model)):
        encoders[name] = encoder
        if evaluate.rounds == "every":
            yield Result({test: _score(work, test, encoder, evaluate.depth) for test in tests}, encoder, name)
    if evaluate.rounds == "chosen":
        if evaluate.select and len(encoders) > 1:
            for name, encoder in encoders.items():
                validation[name] = _score(work, evaluate.select, encoder, stages.VALIDATION_DEPTH)
        name = stages.choose(encoders, validation, evaluate.measures[0])
        scores = {test: _score(work, test, encoders[name], evaluate.depth) for test in tests}
        yield Result(scores, encoders[name], name, validation)


def pretrain(work: stages.Work, encoder: Source) -> Source:
    """Return the encoder after the track's pre-training sections, or `encoder` where the track has none."""
    for section, settings in work.experiment.pretraining.items():  # pretrain, adapt
        corpora = [work.inputs.collections[name].corpus for name in settings.corpus]
        documents = [stages.tokenise_documents(work, corpus, settings.titles) for corpus in corpora]
        probe = [stages.tokenise(work, *part) for part in work.inputs.probes.get(section, ())]
        encoder = stages.pretrain(work, section, encoder, documents, probe)
    return encoder


def _finetune(work: stages.Work, start: Source) -> Iterator[tuple[str, Artifact]]:
    """Yield the encoder of each round. Every round begins at `start`, as in RetroMAE's and BoW's recipes."""
    track, reading = work.experiment.track, work.experiment.track.finetune.reading
    texts = stages.tokenise(work, work.inputs.collections[track.finetune.queries], reading.titles)
    negatives = stages.collect_negatives(work, texts) if track.finetune.hard else None
    first = stages.finetune(work, start, texts, "in-batch", negatives)
    yield "in-batch", first
    if track.mine.queries and (track.mine.depth or track.distil.on):
        texts = texts._replace(queries=stages.sample_queries(work, texts))
    mined = None
    if track.mine.depth:
        queries = stages.encode(work, first, texts.queries, "query", reading)
        mined = stages.mine(work, texts, queries, stages.encode(work, first, texts.documents, "passage", reading))
        yield "mined", stages.finetune(work, start, texts, "mined", mined)
    if track.distil.on:
        yield "distilled", stages.finetune(work, start, texts, "distilled", stages.teach(work, texts, mined))


def _score(work: stages.Work, dataset: str, encoder: Artifact, depth: int) -> Artifact:
    reading = work.experiment.track.test_reading
    texts = stages.tokenise(work, work.inputs.collections[dataset], reading.titles)
    queries = stages.encode(work, encoder, texts.queries, "query", reading)
    passages = stages.encode(work, encoder, texts.documents, "passage", reading)
    return stages.score(work, dataset, stages.search(work, dataset, queries, passages, depth))
