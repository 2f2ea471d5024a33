"""Estimate an experiment's needs, stage by stage, without regard to any machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from retrobench.config import DTYPES, Experiment, Finetune, Model, Pretrain, Reading, Track
from retrobench.plan import arithmetic
from retrobench.plan.arithmetic import Shape
from retrobench.plan.inventory import CollectionFacts, list_downloads, look_up, shape_of
from retrobench.plan.needs import LOGIT_BYTES, ExperimentNeeds, StageNeeds, StepMemory, WorkItem
from retrobench.plan.parts import parts_of

__all__ = ["CHOOSING", "ENCODING", "estimate_needs"]

ENCODING = 8192  # tokens embedded at a time
CHOOSING = 100  # documents per validation query

# Bytes of main memory per document: its id, and its entries in the sets and dictionaries of fine-tuning and search.
_ID_BYTES = 330
_TEXT_BYTES = 4.6  # per token
_SEARCH_BYTES = 2.0**29  # blocks of vectors and candidates
_BUCKETED = 0.99  # share of tokens that are no padding in batches of texts of similar length


def estimate_needs(experiment: Experiment) -> ExperimentNeeds:
    """Estimate the needs of an experiment. Raises RetrobenchError for an unknown dataset."""
    estimator = _Estimator(experiment)
    evaluate = experiment.track.evaluate
    rounds = _list_rounds(experiment.track)
    every_round = evaluate.rounds == "every"
    stages = [*estimator.pretraining(), *estimator.finetuning(rounds)]
    if len(rounds) > 1 and evaluate.select and not every_round:
        stages.append(estimator.testing("choose", rounds, (evaluate.select,), CHOOSING))
    tested_rounds = rounds[-1:]
    if every_round:
        tested_rounds = rounds
    stages.append(estimator.testing("test", tested_rounds, experiment.datasets, evaluate.depth))
    collections = estimator.collections.by_dataset
    tokenising = _estimate_tokenising(estimator.collections)  # of the collections that the other stages read
    return ExperimentNeeds(
        stages=(tokenising, *stages),
        collections=tuple(collections.values()),
        tested=tuple(collections[name] for name in experiment.datasets),
        shape=estimator.shape,
        models=estimator.models,
        assumed=tuple(estimator.assumed),
    )


def _list_rounds(track: Track) -> list[str]:
    rounds = ["in-batch"]
    if track.mine.depth:
        rounds.append("mined")
    if track.distil.on:
        rounds.append("distilled")
    return rounds


class _Collections:
    """Look up each collection once: counting a local one takes a second. `limit` is the track's, 0 for none."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.by_dataset: dict[str, CollectionFacts] = {}
        self.to_tokenise: dict[tuple[str, object], CollectionFacts] = {}  # of each corpus and way to join titles
        self._facts: dict[tuple[str, bool], CollectionFacts] = {}

    def get(self, dataset_id: str, titles: object, with_queries: bool = True) -> CollectionFacts:
        key = (dataset_id, with_queries)
        if key not in self._facts:
            self._facts[key] = look_up(dataset_id, with_queries).limited(self.limit)
        collection = self._facts[key]
        self.by_dataset[dataset_id] = collection
        self.to_tokenise[collection.corpus, titles] = collection
        return collection


def _estimate_tokenising(collections: _Collections) -> StageNeeds:
    corpora = collections.to_tokenise.values()
    datasets = collections.by_dataset.values()
    tokens = sum(corpus.documents * corpus.tokens for corpus in corpora)
    tokens += sum(dataset.queries * dataset.query_tokens for dataset in datasets)
    counts = [corpus.documents for corpus in corpora]
    documents = sum(counts)
    largest = max(counts, default=0)
    return StageNeeds(
        name="tokenise",
        items=(WorkItem("tokenise", tokens),),
        disk=arithmetic.TOKEN * tokens + 30.0 * documents,  # lengths, and ids in JSON
        host=200.0 * largest,
    )


@dataclass(frozen=True)
class _Vectors:
    """Hold the sizes of an entrant's vectors: dense numbers, their bytes, and term weights of a document."""

    width: int
    number_bytes: int
    terms: int


def _size_vectors(experiment: Experiment, shape: Shape) -> _Vectors:
    representation = experiment.entrant.representation
    settings = experiment.track.representation
    width = shape.hidden
    if representation == "terms":
        width = 0
    if representation == "cls+terms":
        width = settings.dense
    terms = settings.terms if "terms" in representation else 0
    number_bytes = np.dtype(DTYPES[settings.stored]).itemsize
    return _Vectors(width, number_bytes, terms)


class _Estimator:
    """Estimate stages in their order. Tokens and vectors of an earlier stage are not made again."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.track = experiment.track
        self.collections = _Collections(self.track.data.limit)
        self.models: dict[str, int] = {}
        self.assumed: list[str] = []
        model = experiment.entrant.checkpoint or self.track.model.base
        self.shape = self._look_up_model(model, self.track.model)
        self.vectors = _size_vectors(experiment, self.shape)
        self.scores_terms = self.vectors.terms > 0
        self.encoder_bytes = 4.0 * self.shape.parameters  # of an encoder with its head in the store
        self.encoded: set[tuple[str, ...]] = set()

    def _look_up_model(self, name: str, model: Model) -> Shape:
        shape, assumption = shape_of(name, model)
        self.models |= list_downloads(name, shape)
        if assumption:
            self.assumed.append(assumption)
        return shape

    def pretraining(self) -> list[StageNeeds]:
        """Return the pre-trainings that the track defines and the entrant takes part in."""
        stages = []
        for section, settings in self.experiment.pretraining.items():
            if settings.corpus:
                pretraining = self._pretrain(section, settings)
                stages.append(pretraining)
                stages += self._probes(section, settings, pretraining)
        return stages

    def _pretrain(self, section: str, settings: Pretrain) -> StageNeeds:
        texts = 0
        corpus_tokens = []
        for name in settings.corpus:
            corpus = self.collections.get(name, settings.titles, with_queries=False)
            length = min(corpus.tokens, settings.max_length)
            texts += corpus.documents
            corpus_tokens.append(corpus.documents * length)
        mean_length = sum(corpus_tokens) / texts
        steps = settings.resolved(texts).steps
        tokens = steps * min(settings.batch, texts) * mean_length
        entrant = self.experiment.neural.at(section)
        parts = parts_of(entrant.kind, entrant.settings)
        flops = arithmetic.pretraining(self.shape, mean_length, parts) * tokens
        real = _BUCKETED if settings.bucket else mean_length / settings.max_length
        step = StepMemory(
            self.shape,
            settings.batch,
            settings.max_length,
            settings.shards,
            pooled=parts.pooled,
            decoder=parts.decoder,
            kept=parts.kept,
        )
        return StageNeeds(
            name=section,
            items=(WorkItem("pretrain", tokens, flops, real),),
            disk=self.encoder_bytes + arithmetic.CHECKPOINT * self.shape.parameters,  # the last checkpoint is kept
            host=24.0 * texts,  # lengths and offsets
            device=step.device_bytes,
            section=section,
            step=step,
        )

    def _probes(self, section: str, settings: Pretrain, pretraining: StageNeeds) -> list[StageNeeds]:
        """Return all probes of a section as one stage, or none: fine-tunings of copies, and searches of few documents.

        The documents are embedded before fine-tuning too, for term coverage. The pre-training stays in memory.
        """
        probe = settings.probe
        if not probe.probe_every:
            return []
        dataset = self.experiment.probes[section]
        limit = min(probe.probe_documents, self.track.data.limit or probe.probe_documents)
        collection = look_up(dataset).limited(limit)
        self.collections.by_dataset.setdefault(dataset, collection)
        finetune, reading = self.track.finetune, self.track.test_reading
        total = finetune.resolved(self._count_examples(self._training_queries(), mined=False)).steps
        short = replace(finetune, steps=min(probe.probe_steps, total), epochs=0.0)
        tuning = self._finetune("probe", short, 0, mined=False)
        width = self.vectors.width + self.vectors.terms
        documents = self._embed(collection.documents, collection.tokens, reading.passage_length)
        items = [
            documents,
            *tuning.items,
            self._embed(collection.queries, collection.query_tokens, reading.query_length),
            documents,
            WorkItem("search", flops=arithmetic.searching(collection.queries, collection.documents, width)),
        ]
        corpora = [self.collections.get(name, settings.titles, with_queries=False) for name in settings.corpus]
        count = settings.resolved(sum(corpus.documents for corpus in corpora)).steps // probe.probe_every
        repeated = [replace(item, tokens=count * item.tokens, flops=count * item.flops) for item in items]
        resident = pretraining.step.fixed_bytes if pretraining.step else 0.0
        device = resident + tuning.device
        return [StageNeeds(f"{section} probes", tuple(repeated), host=tuning.host, device=device)]

    def finetuning(self, rounds: list[str]) -> list[StageNeeds]:
        """Return each round, after the mining or the teacher that it needs."""
        settings = self.track.finetune
        stages = []
        for name in rounds:
            if name == "in-batch" and settings.hard:
                stages.append(self._finetune("finetune hard", settings, settings.negatives, mined=False))
            elif name == "in-batch":
                stages.append(self._finetune("finetune in-batch", settings, 0, mined=False))
            if name == "mined":
                stages.append(self._mine())
                stages.append(self._finetune("finetune mined", settings, settings.negatives, mined=True))
            if name == "distilled":
                stages += self._teach()
                negatives = self.track.distil.negatives
                stages.append(self._finetune("finetune distilled", settings, negatives, mined=True))
        return stages

    def _finetune(self, name: str, settings: Finetune, negatives: int, mined: bool) -> StageNeeds:
        collection = self._training_queries()
        examples = self._count_examples(collection, mined)
        reading = settings.reading
        gradient_cache = settings.performance.gradient_cache
        passages = 1 + negatives
        query_length = min(collection.query_tokens, reading.query_length)
        passage_length = min(collection.tokens, reading.passage_length)
        batch = min(settings.batch, examples)
        seen = settings.resolved(examples).steps * batch
        flops = seen * query_length * self._training_flops(query_length)
        flops += seen * passages * passage_length * self._training_flops(passage_length)
        if gradient_cache:
            flops *= 4 / 3  # texts are embedded twice
        real_tokens = query_length + passages * passage_length
        padded_tokens = reading.query_length + passages * reading.passage_length
        step = StepMemory(
            self.shape,
            settings.batch,
            padded_tokens,
            settings.shards,
            couples=True,
            pooled=1 + passages if self.scores_terms else 0,
            gradient_cache=gradient_cache,
            texts=1 + passages,
        )
        disk = self.encoder_bytes
        if settings.hard and not mined:
            disk += 4.0 * (settings.hard_depth or negatives) * examples
        return StageNeeds(
            name=name,
            items=(WorkItem("finetune", seen * real_tokens, flops, real_tokens / padded_tokens),),
            disk=disk,
            host=_ID_BYTES * collection.documents,
            device=step.device_bytes,
            section="finetune",
            step=step,
            negatives=negatives,
        )

    def _training_flops(self, length: float) -> float:
        return arithmetic.training(self.shape, length, self.scores_terms)

    def _training_queries(self) -> CollectionFacts:
        settings = self.track.finetune
        return self.collections.get(settings.queries, settings.reading.titles)

    def _count_examples(self, collection: CollectionFacts, mined: bool) -> int:
        """Count the training examples, or those of the queries that are mined for."""
        examples = collection.judged
        if self.track.finetune.examples == "judgement":
            examples = collection.judgements
        if mined and self.track.mine.queries:
            return min(examples, self.track.mine.queries)
        return examples

    def _mine(self) -> StageNeeds:
        settings = self.track.mine
        collection = self._training_queries()
        examples = self._count_examples(collection, mined=True)
        queries = min(settings.queries or collection.queries, collection.queries)
        mined_for = replace(collection, queries=queries)
        search = self._search("mine", "in-batch", [mined_for], self.track.finetune.reading, depth=0)
        rankings = 24.0 * (settings.depth + settings.skip) * queries  # joined and cut
        candidates = 4.0 * settings.depth * examples
        return replace(search, disk=search.disk + candidates, host=search.host + rankings)

    def _teach(self) -> list[StageNeeds]:
        """Return the stage in which a cross-encoder reads each mined candidate after its query, if there is one."""
        settings = self.track.distil
        if not settings.teacher:
            return []
        shape = self._look_up_model(settings.teacher, replace(self.track.model, layers=0))
        collection = self._training_queries()
        examples = self._count_examples(collection, mined=True)
        pairs = examples * (1 + self.track.mine.depth)
        max_length = settings.max_length or shape.positions
        length = min(collection.query_tokens + collection.tokens, max_length)
        flops = pairs * length * arithmetic.encoding(shape, length)
        document_bytes = _ID_BYTES + _TEXT_BYTES * collection.tokens
        stage = StageNeeds(
            name="teach",
            items=(WorkItem("teach", pairs * length, flops, _BUCKETED),),
            disk=8.0 * pairs,
            host=document_bytes * collection.documents + 12.0 * pairs,
            device=8.0 * shape.parameters,
        )
        return [stage]

    def testing(self, name: str, rounds: list[str], datasets: tuple[str, ...], depth: int) -> StageNeeds:
        """Return the embedding of the collections by each round's encoder, and the search."""
        reading = self.track.test_reading
        collections = [self.collections.get(dataset, reading.titles) for dataset in datasets]
        searches = []
        items: list[WorkItem] = []
        for encoder_round in rounds:
            search = self._search(name, encoder_round, collections, reading, depth)
            searches.append(search)
            items += search.items
        disk = sum(search.disk for search in searches)
        return replace(searches[0], items=tuple(items), disk=disk)

    def _search(
        self, name: str, encoder_round: str, collections: list[CollectionFacts], reading: Reading, depth: int
    ) -> StageNeeds:
        """Return the search of collections, and the embedding of texts that the round's encoder has not embedded."""
        vectors = self.vectors
        width = vectors.width + vectors.terms
        items = []
        disk = 0.0
        for collection in collections:
            items.append(self._embed(collection.queries, collection.query_tokens, reading.query_length))
            disk += self._query_bytes(collection.queries)
            corpus = (encoder_round, collection.corpus, str(reading.passage_length), str(reading.titles))
            if corpus not in self.encoded:
                self.encoded.add(corpus)
                items.append(self._embed(collection.documents, collection.tokens, reading.passage_length))
                disk += arithmetic.vector_bytes(
                    collection.documents, vectors.width, vectors.terms, vectors.number_bytes
                )
            flops = arithmetic.searching(collection.queries, collection.documents, width)
            items.append(WorkItem("search", flops=flops))
            ranks = min(depth, collection.documents)
            disk += arithmetic.RUN_LINE * collection.queries * ranks
        largest = max(collection.documents for collection in collections)
        return StageNeeds(
            name=name,
            items=tuple(items),
            disk=disk,
            host=_ID_BYTES * largest + _SEARCH_BYTES,  # vectors are memory-mapped
            device=self._encoder_device_bytes(),
        )

    def _query_bytes(self, queries: int) -> float:
        """Return the bytes of the vectors of queries, which keep the weights of all words."""
        dense = arithmetic.vector_bytes(queries, self.vectors.width, number=self.vectors.number_bytes)
        words = self.shape.vocabulary if self.scores_terms else 0
        return dense + 4.0 * words * queries

    def _encoder_device_bytes(self) -> float:
        """Return the bytes on the device of an encoder while it embeds."""
        device = 6.0 * self.shape.parameters
        device += arithmetic.activation_bytes(self.shape, ENCODING) / self.shape.layers
        if self.scores_terms:
            device += LOGIT_BYTES + arithmetic.pooled_bytes(self.shape, ENCODING / 32)
        return device

    def _embed(self, texts: int, mean_length: float, longest: int) -> WorkItem:
        length = min(mean_length, longest)
        tokens = texts * length
        flops = tokens * arithmetic.encoding(self.shape, length, self.scores_terms)
        return WorkItem("encode", tokens, flops, _BUCKETED)
