"""What a track asks for, stage by stage: tokens, FLOPs, memory and disk. Nothing here knows the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from retrobench.config import DTYPES, Experiment, Finetune, Model, Pretrain, Reading
from retrobench.plan import arithmetic
from retrobench.plan.arithmetic import Shape
from retrobench.plan.inventory import Collection, base_files, look, shape_of

__all__ = ["ENCODING", "Batch", "Kind", "Needs", "Stage", "Work", "needs_of"]

ENCODING = 8192  # tokens embedded at a time

# Bytes of main memory per document: its id, and its places in the sets and dictionaries of fine-tuning and search.
_ID = 330
_TEXT = 4.6  # bytes of text per token
_BLOCKS = 2.0**29  # of vectors and candidates that a search holds
# A training holds logits of as many rows as fill a GiB in 32 bits, their copy in 16 and the gradients.
_LOGITS = 2.5 * 2**30
MASKED = 0.15  # BERT's share of masked tokens, where an objective names none
CHOOSING = 100  # documents per validation query
_BUCKETED = 0.99  # share of real tokens in batches of texts of like length

Kind = Literal["tokenise", "pretrain", "finetune", "encode", "teach", "search"]


@dataclass(frozen=True)
class Batch:
    """One forward of a training: examples with their tokens, padding included."""

    shape: Shape
    examples: int
    tokens: int  # per example
    accumulation: int = 1
    pooled: int = 0  # texts per example whose vocabulary vectors are kept
    decoder: int = 0  # layers beside the encoder's
    cached: int = 0  # tokens embedded at a time under a gradient cache
    texts: int = 1  # per example

    @property
    def fixed(self) -> float:
        """Bytes on the device whatever the number of examples: weights, gradients, moments, a block of logits."""
        parameters = self.shape.parameters * (1 + self.decoder / self.shape.layers)
        return arithmetic.state_bytes(parameters) + _LOGITS + arithmetic.activation_bytes(self.shape, self.cached)

    @property
    def each(self) -> float:
        """Bytes that one example adds."""
        kept = arithmetic.activation_bytes(self.shape, self.tokens, self.decoder)
        if self.cached:  # vectors and their gradients
            kept = 8.0 * self.shape.hidden * self.texts
        return kept + arithmetic.pooled_bytes(self.shape, self.pooled)


@dataclass(frozen=True)
class Work:
    """One kind of work within a stage."""

    kind: Kind
    tokens: float = 0.0  # real ones
    flops: float = 0.0
    real: float = 1.0  # share of real tokens in its padded batches


@dataclass(frozen=True)
class Stage:
    """A line of the plan."""

    name: str
    works: tuple[Work, ...]
    disk: float = 0.0  # bytes that stay in the store
    host: float = 0.0  # bytes of main memory beside what the device holds
    device: float = 0.0  # bytes on the device
    section: str = ""  # of the track, if it is a training
    batch: Batch | None = None
    negatives: int = 0  # hard ones per query


@dataclass(frozen=True)
class Needs:
    """The stages of an experiment in the order in which they run, and what they were worked out from."""

    stages: tuple[Stage, ...]
    collections: tuple[Collection, ...]  # each dataset that is read
    tested: tuple[Collection, ...]
    shape: Shape
    models: Mapping[str, int]  # to download -> bytes
    assumed: tuple[str, ...]

    @property
    def missing(self) -> dict[str, int]:
        """Each file to download -> bytes, 0 where nobody says."""
        files = dict(self.models)
        for found in self.collections:
            files |= found.missing
        return files


def needs_of(x: Experiment) -> Needs:
    """What an experiment asks for. RetrobenchError for a dataset nobody knows."""
    plan = _Plan(x)
    rounds = ["in-batch", *(["mined"] if x.track.mine.depth else []), *(["distilled"] if x.track.distil.on else [])]
    stages = [*plan.pretraining(), *plan.finetuning(rounds)]
    every = x.track.evaluate.rounds == "every"
    if len(rounds) > 1 and x.track.evaluate.select and not every:
        stages += plan.testing("choose", rounds, (x.track.evaluate.select,), CHOOSING)
    stages += plan.testing("test", rounds if every else rounds[-1:], x.datasets, x.track.evaluate.depth)
    collections = plan.collections
    tested = tuple(collections[name] for name in x.datasets)
    stages = [plan.tokenising(), *stages]
    return Needs(tuple(stages), tuple(collections.values()), tested, plan.shape, plan.models, tuple(plan.assumed))


class _Plan:
    """The stages, and what earlier ones leave for later ones: tokens and vectors are made once."""

    def __init__(self, x: Experiment) -> None:
        self.x, self.track = x, x.track
        self.models: dict[str, int] = {}
        self.assumed: list[str] = []
        self.looked: dict[tuple[str, bool], Collection] = {}  # what is here is counted, which takes a second
        self.collections: dict[str, Collection] = {}
        self.shape = self._shape(x.entrant.checkpoint or x.track.model.base, x.track.model)
        self.terms = x.track.representation.terms if "terms" in x.entrant.representation else 0
        widths = {"terms": 0, "cls+terms": x.track.representation.dense}
        self.width = widths.get(x.entrant.representation, self.shape.hidden)
        self.number = np.dtype(DTYPES[x.track.representation.stored]).itemsize
        self.model = 4.0 * self.shape.parameters  # bytes of an encoder with its head in the store
        self.tokenised: dict[tuple[str, object], Collection] = {}
        self.encoded: set[tuple[str, ...]] = set()

    def _shape(self, name: str, model: Model) -> Shape:
        shape, assumed = shape_of(name, model)
        self.models |= base_files(name, shape)
        self.assumed += [assumed] if assumed else []
        return shape

    def tokenising(self) -> Stage:
        """All collections that the other stages have asked for."""
        collections = self.tokenised.values()
        tokens = sum(found.documents * found.tokens for found in collections)
        tokens += sum(found.queries * found.query_tokens for found in self.collections.values())
        documents = sum(found.documents for found in collections)
        disk = arithmetic.TOKEN * tokens + 30.0 * documents  # lengths, and ids in JSON
        host = 200.0 * max((found.documents for found in collections), default=0)
        return Stage("tokenise", (Work("tokenise", tokens),), disk, host)

    def pretraining(self) -> list[Stage]:
        """Both pre-trainings, as far as the track has them and the entrant pre-trains."""
        return [self._pretrain(name, settings) for name, settings in self.x.pretraining.items() if settings.corpus]

    def _pretrain(self, section: str, settings: Pretrain) -> Stage:
        parts = [self._collection(name, settings.titles, asked=False) for name in settings.corpus]
        texts = sum(part.documents for part in parts)
        lengths = [(part.documents, min(part.tokens, settings.max_length)) for part in parts]
        mean = sum(count * length for count, length in lengths) / texts
        steps = settings.resolved(texts)
        tokens = steps.steps * settings.accumulation * min(settings.batch, texts) * mean
        objective = self.x.entrant.kind
        ratio = float(self.x.entrant.settings.get("mask_ratio", MASKED))
        flops = arithmetic.pretraining(self.shape, mean, objective, ratio) * tokens
        batch = Batch(
            self.shape,
            settings.batch,
            settings.max_length,
            settings.accumulation,
            pooled=int(objective == "dupmae"),
            decoder=int(objective in ("retromae", "dupmae")),
        )
        work = Work("pretrain", tokens, flops, _BUCKETED if settings.bucket else mean / settings.max_length)
        host = 24.0 * texts  # lengths and offsets
        return Stage(section, (work,), self.model, host, batch.fixed + batch.examples * batch.each, section, batch)

    def finetuning(self, rounds: list[str]) -> list[Stage]:
        """Each round, and the mining or the teacher before it."""
        settings, stages = self.track.finetune, []
        for name in rounds:
            negatives = settings.negatives if name != "in-batch" or settings.hard else 0
            if name == "mined":
                stages.append(self._mine())
            if name == "distilled":
                negatives = self.track.distil.negatives
                stages += self._teach()
            called = "finetune hard" if name == "in-batch" and settings.hard else f"finetune {name}"
            stages.append(self._finetune(called, settings, negatives, name != "in-batch"))
        return stages

    def _finetune(self, name: str, settings: Finetune, negatives: int, sampled: bool) -> Stage:
        found, examples = self._examples(sampled)
        passages, query = 1 + negatives, min(found.query_tokens, settings.reading.query_length)
        passage = min(found.tokens, settings.reading.passage_length)
        seen = settings.resolved(examples).steps * min(settings.batch, examples)
        flops = seen * query * arithmetic.training(self.shape, query, self.terms > 0)
        flops += seen * passages * passage * arithmetic.training(self.shape, passage, self.terms > 0)
        real = query + passages * passage
        padded = settings.reading.query_length + passages * settings.reading.passage_length
        pooled, cached = (1 + passages) * (self.terms > 0), settings.performance.gradient_cache
        batch = Batch(self.shape, settings.batch, padded, pooled=pooled, cached=cached, texts=1 + passages)
        flops *= 4 / 3 if cached else 1  # texts are embedded twice
        work = Work("finetune", seen * real, flops, real / padded)
        device = batch.fixed + batch.examples * batch.each
        given = 0 if sampled or not settings.hard else settings.hard_depth or negatives
        disk, host = self.model + 4.0 * given * examples, _ID * found.documents
        return Stage(name, (work,), disk, host, device, "finetune", batch, negatives)

    def _examples(self, sampled: bool) -> tuple[Collection, int]:
        """The training queries, and how many examples are made of them or of those that are mined for."""
        settings, most = self.track.finetune, self.track.mine.queries if sampled else 0
        found = self._collection(settings.queries, settings.reading.titles)
        examples = found.judgements if settings.examples == "judgement" else found.judged
        return found, min(examples, most) if most else examples

    def _mine(self) -> Stage:
        settings = self.track.mine
        found, examples = self._examples(sampled=True)
        queries = settings.queries or found.queries
        stage = self._searched("mine", "in-batch", [replace(found, queries=queries)], self.track.finetune.reading, 0)
        listed = 24.0 * (settings.depth + settings.skip) * queries  # rankings, joined and cut
        return replace(stage, disk=stage.disk + 4.0 * settings.depth * examples, host=stage.host + listed)

    def _teach(self) -> list[Stage]:
        """A cross-encoder reads each mined candidate after its query."""
        settings = self.track.distil
        if not settings.teacher:
            return []
        shape = self._shape(settings.teacher, replace(self.track.model, layers=0))
        found, examples = self._examples(sampled=True)
        pairs, length = examples * (1 + self.track.mine.depth), found.query_tokens + found.tokens
        length = min(length, settings.max_length or shape.positions)
        work = Work("teach", pairs * length, pairs * length * arithmetic.encoding(shape, length), _BUCKETED)
        host = (_ID + _TEXT * found.tokens) * found.documents + 12.0 * pairs
        return [Stage("teach", (work,), 8.0 * pairs, host, 8.0 * shape.parameters)]

    def testing(self, name: str, rounds: list[str], datasets: tuple[str, ...], depth: int) -> list[Stage]:
        """Vectors of the collections by each round's encoder, and the search."""
        reading = self.track.test_reading
        found = [self._collection(dataset, reading.titles) for dataset in datasets]
        stages = [self._searched(name, of, found, reading, depth) for of in rounds]
        works = tuple(work for stage in stages for work in stage.works)
        return [replace(stages[0], works=works, disk=sum(stage.disk for stage in stages))]

    def _searched(self, name: str, of: str, found: list[Collection], reading: Reading, depth: int) -> Stage:
        """Embedding what the encoder of a round has not embedded yet, and searching it."""
        works, disk = [], 0.0
        for part in found:
            works.append(self._embed(part.queries, part.query_tokens, reading.query_length))
            words = self.shape.vocabulary if self.terms else 0  # of a query all are kept
            disk += arithmetic.vector_bytes(part.queries, self.width, number=self.number) + 4.0 * words * part.queries
            key = (of, part.corpus, str(reading.passage_length), str(reading.titles))
            if key not in self.encoded:
                self.encoded.add(key)
                works.append(self._embed(part.documents, part.tokens, reading.passage_length))
                disk += arithmetic.vector_bytes(part.documents, self.width, self.terms, self.number)
            flops = arithmetic.searching(part.queries, part.documents, self.width + self.terms)
            works.append(Work("search", flops=flops))
            disk += arithmetic.RUN_LINE * part.queries * min(depth, part.documents)
        largest = max(found, key=lambda part: part.documents)
        host = _ID * largest.documents + _BLOCKS  # vectors are read from the disk as they are needed
        device = 6.0 * self.shape.parameters + arithmetic.activation_bytes(self.shape, ENCODING) / self.shape.layers
        device += _LOGITS + arithmetic.pooled_bytes(self.shape, ENCODING / 32) if self.terms else 0
        return Stage(name, tuple(works), disk, host, device)

    def _embed(self, count: int, mean: float, longest: int) -> Work:
        mean = min(mean, longest)
        flops = count * mean * arithmetic.encoding(self.shape, mean, self.terms > 0)
        return Work("encode", count * mean, flops, _BUCKETED)

    def _collection(self, dataset_id: str, titles: object, asked: bool = True) -> Collection:
        if (dataset_id, asked) not in self.looked:
            self.looked[dataset_id, asked] = look(dataset_id, asked)
        found = self.looked[dataset_id, asked]
        self.collections[dataset_id] = self.tokenised[found.corpus, titles] = found
        return found
