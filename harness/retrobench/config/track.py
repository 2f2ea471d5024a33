"""What a track fixes: everything but the objective, as frozen records. Each section of a track's file is one record."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt

from retrobench.scoring import deepest

__all__ = [
    "DTYPES",
    "Distil",
    "Evaluate",
    "Finetune",
    "FinetunePerformance",
    "Mine",
    "Model",
    "Optimisation",
    "Performance",
    "Precision",
    "Pretrain",
    "Reading",
    "Representations",
    "Titles",
    "Track",
]

DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # of dense vectors on disk, by their names

Precision = Literal["auto", "bf16", "fp32"]
Titles = bool | Literal["[SEP]"]  # left out, put before the text with a space, or with the tokenizer's separator

Count = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Length = Annotated[int, Ge(3)]  # [CLS], one token, [SEP]
Share = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Performance:
    """Performance knobs change speed, not results, so they are left out of the track's identity.

    A compiled layer rounds otherwise, so a knob still counts in the cache key of a trained encoder.
    """

    compile: Literal["auto", "on", "off"] = "auto"  # transformer layers, by torch; auto: on a GPU


@dataclass(frozen=True)
class FinetunePerformance(Performance):
    """The knobs of fine-tuning."""

    # Tokens embedded at a time, padding included, where a batch is more than memory holds. A query still meets all
    # passages of the batch. 0 keeps what the backward pass needs of the whole batch.
    gradient_cache: Count = 0


@dataclass(frozen=True)
class Optimisation:
    """AdamW with warm-up, decay and clipping. Steps are optimizer steps, given as such or as epochs."""

    steps: Count = 0
    batch: Positive = field(kw_only=True)  # examples per forward and process
    learning_rate: Share = field(kw_only=True)
    warmup: Share = 0.1  # share of the steps; from 1 on their number
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    floor: float = 0.0  # share of the learning rate that the decay ends at
    weight_decay: float = 0.01
    clip: Share = 1.0  # largest gradient norm; 0 leaves gradients as they are
    accumulation: Positive = 1  # forwards per step
    bucket: Count = 32  # batches sorted by length together; 0 draws them at random, as the papers did
    precision: Precision = "auto"
    checkpoint_every: Positive = 100
    log_every: Positive = 10
    epochs: Share = 0.0  # in place of steps: how often the examples are gone through
    performance: Performance = Performance()

    def __post_init__(self) -> None:
        if self.steps and self.epochs:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs:g}; one of them must be 0")

    def resolved(self, examples: int, processes: int = 1) -> Self:
        """Return the settings with epochs counted in steps. Each epoch leaves out its last incomplete batch."""
        if not self.epochs or not examples:
            return self
        batches = examples // min(self.batch, examples)
        steps = max(1, round(self.epochs * batches / (self.accumulation * processes)))
        return replace(self, steps=steps, epochs=0.0)

    def rate(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        warm = round(self.warmup if self.warmup >= 1 else self.warmup * self.steps)
        warm = max(1, warm) if self.warmup else 0
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        shape = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[self.schedule]
        return self.learning_rate * (self.floor + (1 - self.floor) * shape)


@dataclass(frozen=True)
class Model:
    """The base that every objective starts from."""

    base: str  # a folder, a hub id, or retrobench/base; its tokenizer is used as it is
    layers: Count = 0  # above 0: a random BERT of this shape on the base's tokenizer, to train a base from nothing
    hidden: Positive = 128
    heads: Positive = 4
    intermediate: Positive = 512
    positions: Positive = 512
    dropout: Share = 0.1


@dataclass(frozen=True)
class Pretrain(Optimisation):
    """Further pre-training, the only kind of stage in which objectives differ: on a general corpus, or the target's."""

    corpus: tuple[str, ...] = ()  # dataset ids, their documents read one after the other
    titles: bool = True
    max_length: Length = 512


@dataclass(frozen=True)
class Reading:
    """How an encoder reads texts."""

    titles: Titles = True
    query_length: Length = 32  # tokens, [CLS] and [SEP] among them
    passage_length: Length = 144


@dataclass(frozen=True)
class Finetune(Optimisation):
    """Contrastive fine-tuning on the training queries (InfoNCE over all passages of the batch)."""

    queries: str = ""  # a dataset id
    reading: Reading = Reading()
    temperature: Annotated[float, Gt(0)] = 1.0
    negatives: Count = 0  # hard negatives per query, in each round that has some; in-batch ones come on top
    # The dataset whose own negatives the first round uses beside in-batch ones: `hard_depth` per query, 0 for all.
    hard: str = ""
    hard_depth: Count = 0
    # Where a query has too few hard negatives: they repeat, or random passages fill up (RetroMAE); "drop" lets them
    # repeat and leaves out a query that has none (bowdpr).
    lacking: Literal["repeat", "random", "drop"] = "repeat"
    # What an epoch goes through: queries, or their judgements, so that a query stands for each positive (RetroMAE).
    examples: Literal["query", "judgement"] = "query"
    performance: FinetunePerformance = FinetunePerformance()


@dataclass(frozen=True)
class Mine:
    """Hard negatives from the encoder of the first round."""

    depth: Count = 0  # candidates per query; 0 leaves out mining and the second round
    skip: Count = 0  # highest ranks passed over
    queries: Count = 0  # how many training queries are mined for, the same ones for every entrant; 0 for all


@dataclass(frozen=True)
class Distil:
    """A last round that learns a teacher's scores of mined candidates; off while neither teacher nor scores is named.

    Its loss is KL(softmax(teacher) || softmax(student / temperature)) over a query's positive and its own negatives,
    plus `contrastive` times InfoNCE over the whole batch (RetroMAE, released modeling.py:163-186).
    """

    teacher: str = ""  # a cross-encoder, as a folder or hub id
    scores: str = ""  # or a teacher's scores: a TSV file of query-id, corpus-id, score
    loss: Literal["element-mean", "batch-mean"] = "element-mean"  # over queries x passages, as released; over queries
    temperature: Annotated[float, Gt(0)] = 1.0  # of the student
    contrastive: Share = 1e-4
    negatives: Positive = 15  # per query, drawn from the scored candidates
    max_length: Count = 0  # of a pair as the teacher reads it; 0 leaves it to the teacher's files

    def __post_init__(self) -> None:
        if self.teacher and self.scores:
            raise ValueError("teacher and scores are both given; one of them must be empty")

    @property
    def on(self) -> bool:
        """Tell whether the round takes place."""
        return bool(self.teacher or self.scores)


@dataclass(frozen=True)
class Evaluate:
    """Datasets and measures; the first measure of the first dataset ranks the table."""

    datasets: tuple[str, ...] = ()  # ids of datasets, or of groups such as `beir`
    select: str = ""  # the dataset on which the better of the two rounds is chosen; empty takes the last
    measures: tuple[str, ...] = ("MRR@10", "nDCG@10", "Recall@100")
    depth: Positive = 1000  # documents kept per query
    rounds: Literal["chosen", "every"] = "chosen"  # a row for the chosen round, or one for each round
    query_length: Count = 0  # 0: as in fine-tuning
    passage_length: Count = 0
    titles: Titles | None = None  # none: as in fine-tuning
    index: str = "exact"  # or a factory string of faiss, for approximate search

    def __post_init__(self) -> None:
        if not self.datasets or not self.measures:
            raise ValueError("datasets and measures may not be empty")
        deepest(self.measures)


@dataclass(frozen=True)
class Representations:
    """Sizes of the representations; which one is used is the entrant's to say."""

    dense: Positive = 384  # width of the projected [CLS] in cls+terms (DupMAE, section 3.4)
    terms: Positive = 384  # terms kept per document
    activation: Literal["log1p", "raw"] = "log1p"  # on the pooled logits; the paper is silent
    scale: float = 1.0  # weight of the terms' inner product beside the dense one's
    normalize: bool = False  # unit vectors, for `cls` and `mean`
    # How the dense part lies on disk; scores are made in float32 of what is stored.
    stored: Literal["float32", "float16", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Track:
    """Everything but the objective, held equal for all entrants."""

    name: str
    model: Model
    pretrain: Pretrain
    finetune: Finetune
    evaluate: Evaluate
    adapt: Pretrain | None = None  # more pre-training, on the target corpus
    mine: Mine = Mine()
    distil: Distil = Distil()
    representation: Representations = Representations()
    title: str = ""
    description: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)  # what the command line changed

    @property
    def identity(self) -> str:
        """Return a hash that tells tracks apart whose rows may not stand in one column."""
        settings = asdict(self)
        for name in ("name", "title", "description", "overrides"):
            del settings[name]
        for section in ("pretrain", "adapt", "finetune"):
            if settings[section] is not None:
                del settings[section]["performance"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def test_reading(self) -> Reading:
        """Return how texts are read at test: as in fine-tuning, but for what `[evaluate]` sets."""
        trained, evaluate = self.finetune.reading, self.evaluate
        return Reading(
            titles=trained.titles if evaluate.titles is None else evaluate.titles,
            query_length=evaluate.query_length or trained.query_length,
            passage_length=evaluate.passage_length or trained.passage_length,
        )
