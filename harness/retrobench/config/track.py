"""A track fixes everything but the objective. Each section of a track's file is a frozen record."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt

from retrobench.scoring import deepest

__all__ = [
    "DTYPES",
    "INTERVALS",
    "KNOBS",
    "Attention",
    "Data",
    "Distil",
    "Evaluate",
    "EvaluatePerformance",
    "Finetune",
    "FinetunePerformance",
    "Knobs",
    "Mine",
    "Model",
    "Optimisation",
    "Performance",
    "Precision",
    "Pretrain",
    "Probe",
    "Reading",
    "Representations",
    "ResolvedPrecision",
    "Titles",
    "Track",
    "with_added",
    "without_added",
]

DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # NumPy types of dense vectors on disk, by name

INTERVALS = ("checkpoint_every", "log_every")  # keys of a training that change no result

ResolvedPrecision = Literal["bf16", "fp16", "fp32"]  # of matrix products
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Attention = Literal["auto", "cudnn", "efficient", "math"]
Titles = bool | Literal["[SEP]"]  # no titles, titles and a space before the texts, or titles and the separator

Count = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Length = Annotated[int, Ge(3)]  # [CLS], one token, [SEP]
Share = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Knobs:
    """Knobs change speed or messages, not results, so they are left out of the track's identity.

    Compiled layers and other kernels round differently, so performance knobs stay in the cache keys of trained encoders
    and of vectors.
    """


@dataclass(frozen=True)
class Performance(Knobs):
    """The performance knobs of a training."""

    compile: Literal["auto", "on", "off"] = "auto"  # torch compiles the transformer layers; auto: on a GPU


@dataclass(frozen=True)
class FinetunePerformance(Performance):
    """The performance knobs of fine-tuning."""

    # Tokens embedded at once, padding included, for batches that do not fit into memory. A query is still compared
    # with all passages of the batch. 0 embeds the whole batch at once.
    gradient_cache: Count = 0


@dataclass(frozen=True)
class EvaluatePerformance(Knobs):
    """The performance knobs of encoding, for the test and for mining."""

    # Kernel of attention on a GPU, where texts are embedded. auto: torch's choice without cuDNN, which plans anew for
    # every shape of batch; cudnn, efficient or math: this kernel, where it can compute the batch.
    attention: Attention = "auto"


@dataclass(frozen=True)
class Probe(Knobs):
    """Probes of a pre-training: a copy of the model, fine-tuned for few steps and scored. No cache key holds them."""

    probe_every: Count = 0  # optimizer steps between probes, each at a checkpoint; 0 for no probe
    probe_steps: Positive = 50  # optimizer steps of a probe's fine-tuning
    probe_documents: Positive = 1000  # most documents, and most questions, that a probe embeds and searches
    probe_dataset: str = ""  # the dataset of its questions, which no test may use; empty: that of evaluate.select


# Settings that tracks got after rows had identities, with the empty values that change nothing. A track with these
# values keeps the identity and the kept file that it has always had.
ADDED: Mapping[str, Any] = {"data.limit": 0, "evaluate.transfer": []}

KNOBS = tuple(knob.name for record in (FinetunePerformance, EvaluatePerformance, Probe) for knob in fields(record))


@dataclass(frozen=True)
class Optimisation:
    """AdamW with warm-up, decay and clipping, for a number of optimizer steps or epochs."""

    steps: Count = 0  # optimizer steps
    batch: Positive = field(kw_only=True)  # examples per optimizer step, of all processes together
    learning_rate: Share = field(kw_only=True)  # AdamW's, at the end of the warm-up
    warmup: Share = 0.1  # below 1 a share of the steps, from 1 on a number of steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # decay of the learning rate after the warm-up
    floor: float = 0.0  # share of the learning rate that the decay ends at
    weight_decay: float = 0.01  # AdamW's, not on biases and norms
    clip: Share = 1.0  # largest gradient norm; 0 does not clip
    # Equal parts of a batch. Random draws belong to a part, and each process takes as many parts as the others.
    shards: Positive = 1
    bucket: Count = 32  # batches whose examples are sorted by length together; 0 shuffles, as the papers did
    # Of the training. auto: bf16 where the device computes it, fp16 on older GPUs, else fp32. fp16 needs a GPU.
    precision: Precision = "auto"
    checkpoint_every: Positive = 100  # optimizer steps between checkpoints
    log_every: Positive = 10  # optimizer steps between lines of log.jsonl
    epochs: Share = 0.0  # passes over the examples, instead of steps
    performance: Performance = Performance()

    def __post_init__(self) -> None:
        if self.steps and self.epochs:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs:g}; one of them must be 0")
        if self.batch % self.shards:
            raise ValueError(f"shards is {self.shards} and batch is {self.batch}; shards must divide batch")

    def resolved(self, examples: int) -> Self:
        """Return the settings with epochs converted to steps. An epoch drops its last incomplete batch."""
        if not self.epochs or not examples:
            return self
        batches = examples // min(self.batch, examples)
        return replace(self, steps=max(1, round(self.epochs * batches)), epochs=0.0)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warmup_steps = self._warmup_steps()
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, self.steps - warmup_steps)
        return self.learning_rate * (self.floor + (1 - self.floor) * self._decay(progress))

    def _warmup_steps(self) -> int:
        if not self.warmup:
            return 0
        if self.warmup < 1:
            return max(1, round(self.warmup * self.steps))
        return round(self.warmup)

    def _decay(self, progress: float) -> float:
        """Return the schedule's factor, 1 at the start of the decay and 0 at its end."""
        if self.schedule == "linear":
            return 1 - progress
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0


@dataclass(frozen=True)
class Model:
    """The base model of all objectives."""

    base: str  # a folder, a hub id, or retrobench/base
    layers: Count = 0  # above 0: start from a random BERT of this shape with the base's tokenizer
    hidden: Positive = 128  # width of the layers; this key and the next four count only with layers above 0
    heads: Positive = 4  # attention heads per layer
    intermediate: Positive = 512  # width of the feed-forward parts
    positions: Positive = 512  # longest text in tokens
    dropout: Share = 0.1  # of hidden states and attention


@dataclass(frozen=True)
class Pretrain(Optimisation):
    """Further pre-training, on a general corpus or on the target's. Only here do objectives differ."""

    corpus: tuple[str, ...] = ()  # dataset ids, read in their order
    titles: bool = True  # put a passage's title and a space before its text
    max_length: Length = 512  # tokens of a passage, [CLS] and [SEP] included
    probe: Probe = Probe()


@dataclass(frozen=True)
class Reading:
    """The form in which an encoder reads texts."""

    titles: Titles = True  # a passage's title before its text, behind it a space; "[SEP]": behind it the separator
    query_length: Length = 32  # tokens of a query, [CLS] and [SEP] included
    passage_length: Length = 144  # tokens of a passage, [CLS] and [SEP] included


@dataclass(frozen=True)
class Finetune(Optimisation):
    """Contrastive fine-tuning on the training queries: InfoNCE over all passages of the batch."""

    queries: str = ""  # a dataset id; its queries, judgements and documents are the training set
    reading: Reading = Reading()
    temperature: Annotated[float, Gt(0)] = 1.0  # divides the scores before the softmax
    negatives: Count = 0  # hard negatives per query, beside the in-batch negatives
    hard: str = ""  # a dataset id; its own hard negatives serve in the first round
    hard_depth: Count = 0  # hard negatives of that dataset per query; 0 for all
    # A query with too few hard negatives repeats them, or gets random passages (RetroMAE). "drop" repeats them too, and
    # leaves out queries without any (bowdpr).
    lacking: Literal["repeat", "random", "drop"] = "repeat"
    # An example is a query, or a judgement, so that a query has an example for each positive (RetroMAE).
    examples: Literal["query", "judgement"] = "query"
    performance: FinetunePerformance = FinetunePerformance()


@dataclass(frozen=True)
class Mine:
    """Hard negatives from the encoder of the first round."""

    depth: Count = 0  # candidates per query; 0 leaves out mining and the second round
    skip: Count = 0  # highest ranks to skip
    queries: Count = 0  # number of training queries, equal for all entrants; 0 for all


@dataclass(frozen=True)
class Distil:
    """A last round that learns a teacher's scores of mined candidates. It needs a teacher or a file of scores.

    The loss compares a query's positive with its own negatives: KL(softmax(teacher) || softmax(student / temperature)).
    `contrastive` times InfoNCE over the whole batch is added (RetroMAE, released modeling.py:163-186).
    """

    teacher: str = ""  # a cross-encoder's folder or hub id
    scores: str = ""  # a teacher's scores: a TSV file of query-id, corpus-id, score
    # The mean of the divergence over queries and passages (as released), or over queries.
    loss: Literal["element-mean", "batch-mean"] = "element-mean"
    temperature: Annotated[float, Gt(0)] = 1.0  # divides the student's scores
    contrastive: Share = 1e-4  # weight of InfoNCE over the whole batch
    negatives: Positive = 15  # per query, drawn from the scored candidates
    max_length: Count = 0  # tokens of a pair; 0 uses the teacher's own limit

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

    datasets: tuple[str, ...] = ()  # ids of datasets and of groups such as `beir`
    # Ids of more datasets and groups, tested zero-shot where they are at hand. Others are NOT RUN, and nothing is
    # downloaded for them.
    transfer: tuple[str, ...] = ()
    select: str = ""  # the dataset on which the best round is chosen; empty: the last round
    measures: tuple[str, ...] = ("MRR@10", "nDCG@10", "Recall@100")  # the first ranks the tables
    depth: Positive = 1000  # documents kept per query
    rounds: Literal["chosen", "every"] = "chosen"  # a row for the chosen round, or for every round
    query_length: Count = 0  # tokens of a query; 0: as in fine-tuning
    passage_length: Count = 0  # tokens of a passage; 0: as in fine-tuning
    titles: Titles | None = None  # put titles before texts; left out: as in fine-tuning
    index: str = "exact"  # "exact", or a factory string of faiss for approximate search
    performance: EvaluatePerformance = EvaluatePerformance()

    def __post_init__(self) -> None:
        if not self.datasets or not self.measures:
            raise ValueError("datasets and measures may not be empty")
        deepest(self.measures)


@dataclass(frozen=True)
class Representations:
    """Sizes of the representations. The entrant chooses its representation."""

    dense: Positive = 384  # width of the projected [CLS] in cls+terms (DupMAE, section 3.4)
    terms: Positive = 384  # terms kept per document
    activation: Literal["log1p", "raw"] = "log1p"  # of the pooled logits; the paper does not name it
    scale: float = 1.0  # weight of the terms' inner product beside the dense inner product
    normalize: bool = False  # unit vectors, for `cls` and `mean`
    # The type of dense vectors on disk; scores are computed from them in float32.
    stored: Literal["float32", "float16", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Data:
    """The share of the datasets that is read. A limit makes a trial, whose rows stand apart."""

    # Most documents, and most questions, of each dataset; 0 for all. Trainings shorten with it.
    limit: Count = 0


def without_added(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by section and key without those of `ADDED` that change nothing."""
    kept = dict(sections)
    for name in ADDED:
        section, _, key = name.partition(".")
        settings = dict(kept.get(section) or {})
        if key in settings and not settings[key]:
            del settings[key]
            kept[section] = settings
            if not settings:
                del kept[section]
    return kept


def with_added(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return settings by section and key with those of `ADDED` that they lack."""
    completed = {section: dict(settings) for section, settings in sections.items()}
    for name, value in ADDED.items():
        section, _, key = name.partition(".")
        completed.setdefault(section, {}).setdefault(key, value)
    return completed


@dataclass(frozen=True)
class Track:
    """Everything but the objective, equal for all entrants."""

    name: str
    model: Model
    pretrain: Pretrain
    finetune: Finetune
    evaluate: Evaluate
    adapt: Pretrain | None = None  # more pre-training, on the target corpus
    mine: Mine = Mine()
    distil: Distil = Distil()
    representation: Representations = Representations()
    data: Data = Data()
    title: str = ""
    description: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)  # changes by the command line

    @property
    def identity(self) -> str:
        """Return a hash of the settings that decide results. Rows in one column of a table share it."""
        settings = asdict(self)
        for name in ("name", "title", "description", "overrides"):
            del settings[name]
        settings = without_added(settings)
        del settings["evaluate"]["performance"]
        for section in ("pretrain", "adapt", "finetune"):
            if settings[section] is not None:
                for name in ("performance", "probe", *INTERVALS):
                    settings[section].pop(name, None)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def test_reading(self) -> Reading:
        """Return the form of texts at test: the form of fine-tuning, unless `[evaluate]` changes it."""
        reading = self.finetune.reading
        if self.evaluate.titles is not None:
            reading = replace(reading, titles=self.evaluate.titles)
        if self.evaluate.query_length:
            reading = replace(reading, query_length=self.evaluate.query_length)
        if self.evaluate.passage_length:
            reading = replace(reading, passage_length=self.evaluate.passage_length)
        return reading
