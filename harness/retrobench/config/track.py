"""What is run: a track fixes everything but the objective, an entrant is one configured objective."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Self

from retrobench.data import rules
from retrobench.errors import RetrobenchError
from retrobench.scoring import deepest

__all__ = [
    "DTYPES",
    "Bm25",
    "Distil",
    "Entrant",
    "Evaluate",
    "Experiment",
    "Finetune",
    "Mine",
    "Model",
    "Optimisation",
    "Precision",
    "Pretrain",
    "Representations",
    "Titles",
    "Track",
    "counted",
]


Precision = Literal["auto", "bf16", "fp32"]
Titles = bool | Literal["[SEP]"]  # left out, put before the text with a space, or with the tokenizer's separator

DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # of dense vectors on disk, by their names

# A setting that tracks and stored artifacts of before do not know: see `counted`.
LATER = {"later": True}
# One that only says how a result is come by: every value of it gives the same, but for rounding and for dropout, which
# is drawn anew where texts are grouped otherwise.
MEANS = {"later": True, "means": True}


def counted(record: Any, identity: bool = False) -> dict[str, Any]:
    """The settings of a frozen record by name, those of the records in it too, for keys and identities.

    One that came later counts only where it is not at its default, so that keys and identities outlive new settings.
    With `identity`, what changes no result is left out.
    """
    found: dict[str, Any] = {}
    for part in fields(record):
        value = getattr(record, part.name)
        if (part.metadata.get("later") and value == part.default) or (identity and part.metadata.get("means")):
            continue
        found[part.name] = counted(value, identity) if is_dataclass(value) else value
    return found


def _at_least(record: object, least: int, *names: str) -> None:
    for name in names:
        if getattr(record, name) < least:
            raise ValueError(f"{name} is {getattr(record, name)}; the least is {least}.")


@dataclass(frozen=True)
class Optimisation:
    """AdamW with warm-up, decay and clipping. Steps are optimizer steps, given as such or as epochs."""

    steps: int = 0
    batch: int = field(kw_only=True)  # examples per forward and process
    learning_rate: float = field(kw_only=True)
    warmup: float = 0.1  # share of the steps; from 1 on their number
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    floor: float = 0.0  # share of the learning rate that the decay ends at
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm; 0 leaves gradients as they are
    accumulation: int = 1  # forwards per step
    bucket: int = 32  # batches sorted by length together; 0 draws them at random, as the papers did
    precision: Precision = "auto"
    checkpoint_every: int = 100
    log_every: int = 10
    epochs: float = field(default=0.0, metadata=LATER)  # in place of steps: how often the examples are gone through
    compile: Literal["auto", "on", "off"] = field(default="auto", metadata=LATER)  # layers, by torch; auto: on a GPU

    def __post_init__(self) -> None:
        _at_least(self, 0, "steps", "epochs", "bucket", "learning_rate", "warmup", "clip")
        _at_least(self, 1, "batch", "accumulation", "checkpoint_every", "log_every")
        if self.steps and self.epochs:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs:g}; one of them must be 0.")

    def resolved(self, examples: int, processes: int = 1) -> Self:
        """The same with its epochs counted in steps. Each epoch leaves out its last incomplete batch."""
        if not self.epochs or not examples:
            return self
        batches = examples // min(self.batch, examples)
        steps = max(1, round(self.epochs * batches / (self.accumulation * processes)))
        return replace(self, steps=steps, epochs=0.0)

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
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
    layers: int = 0  # above 0: a random BERT of this shape on the base's tokenizer, to train a base from nothing
    hidden: int = 128
    heads: int = 4
    intermediate: int = 512
    positions: int = 512
    dropout: float = 0.1


@dataclass(frozen=True)
class Pretrain(Optimisation):
    """Further pre-training, the only kind of stage in which objectives differ: on a general corpus, or the target's."""

    corpus: tuple[str, ...] = ()  # dataset ids, their documents read one after the other
    titles: bool = True
    max_length: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 3, "max_length")


@dataclass(frozen=True)
class Finetune(Optimisation):
    """Contrastive fine-tuning on the training queries (InfoNCE over all passages of the batch)."""

    queries: str = ""  # a dataset id
    titles: Titles = True
    query_length: int = 32
    passage_length: int = 144
    temperature: float = 1.0
    negatives: int = 0  # hard negatives per query, in each round that has some; in-batch ones come on top
    # The dataset whose own negatives the first round uses beside in-batch ones, the first so many per query (0: all).
    hard: str = field(default="", metadata=LATER)
    hard_depth: int = field(default=0, metadata=LATER)
    # Where a query has too few hard negatives: they repeat, or random passages fill up (RetroMAE); "drop" lets them
    # repeat and leaves out a query that has none (bowdpr).
    lacking: Literal["repeat", "random", "drop"] = field(default="repeat", metadata=LATER)
    # What an epoch goes through: queries, or their judgements, so that a query stands for each positive (RetroMAE).
    examples: Literal["query", "judgement"] = field(default="query", metadata=LATER)

    # Tokens embedded at a time, padding included, where a batch is more than memory holds; its queries still meet all
    # of its passages. 0 keeps what the way back needs of the whole batch.
    gradient_cache: int = field(default=0, metadata=MEANS)

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 3, "query_length", "passage_length")
        _at_least(self, 0, "negatives", "hard_depth", "gradient_cache")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0.")


@dataclass(frozen=True)
class Mine:
    """Hard negatives from the encoder of the first round."""

    depth: int = 0  # candidates per query; 0 leaves out mining and the second round
    skip: int = 0  # highest ranks passed over
    queries: int = 0  # how many training queries are mined for, the same ones for every entrant; 0 for all

    def __post_init__(self) -> None:
        _at_least(self, 0, "depth", "skip", "queries")


@dataclass(frozen=True)
class Distil:
    """A last round that learns a teacher's scores of mined candidates; off while neither teacher nor scores is named.

    Its loss is KL(softmax(teacher) || softmax(student / temperature)) over a query's positive and its own negatives,
    plus `contrastive` times InfoNCE over the whole batch (RetroMAE, released modeling.py:163-186).
    """

    teacher: str = ""  # a cross-encoder, as a folder or hub id
    scores: str = ""  # or what one said: a TSV file of query-id, corpus-id, score
    loss: Literal["element-mean", "batch-mean"] = "element-mean"  # over queries x passages, as released; over queries
    temperature: float = 1.0  # of the student
    contrastive: float = 1e-4
    negatives: int = 15  # per query, drawn from the scored candidates
    max_length: int = 0  # of a pair as the teacher reads it; 0 leaves it to the teacher's files

    def __post_init__(self) -> None:
        _at_least(self, 0, "contrastive", "max_length")
        _at_least(self, 1, "negatives")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0.")
        if self.teacher and self.scores:
            raise ValueError("teacher and scores are both given; one of them must be empty.")

    @property
    def on(self) -> bool:
        """Whether the round takes place."""
        return bool(self.teacher or self.scores)


@dataclass(frozen=True)
class Evaluate:
    """Datasets and measures; the first measure of the first dataset ranks the table."""

    datasets: tuple[str, ...] = ()  # ids of datasets, or of groups such as `beir`
    select: str = ""  # the dataset on which the better of the two rounds is chosen; empty takes the last
    measures: tuple[str, ...] = ("MRR@10", "nDCG@10", "Recall@100")
    depth: int = 1000  # documents kept per query
    # A row for the chosen round, or one for each round.
    rounds: Literal["chosen", "every"] = field(default="chosen", metadata=LATER)
    # How texts are read at test; 0 and none: as in fine-tuning.
    query_length: int = field(default=0, metadata=LATER)
    passage_length: int = field(default=0, metadata=LATER)
    titles: Titles | None = field(default=None, metadata=LATER)
    index: str = field(default="exact", metadata=LATER)  # or a factory string of faiss, for approximate search

    def __post_init__(self) -> None:
        _at_least(self, 1, "depth")
        _at_least(self, 0, "query_length", "passage_length")
        if not self.datasets or not self.measures:
            raise ValueError("datasets and measures may not be empty.")
        deepest(self.measures)


@dataclass(frozen=True)
class Representations:
    """Sizes of the representations; which one is used is the entrant's to say."""

    dense: int = 384  # width of the projected [CLS] in cls+terms (DupMAE, section 3.4)
    terms: int = 384  # terms kept per document
    activation: Literal["log1p", "raw"] = "log1p"  # on the pooled logits; the paper is silent
    scale: float = 1.0  # weight of the terms' inner product beside the dense one's
    normalize: bool = False  # unit vectors, for `cls` and `mean`
    # How the dense part lies on disk; scores are made in float32 of what is stored.
    stored: Literal["float32", "float16", "bfloat16"] = field(default="float32", metadata=LATER)

    def __post_init__(self) -> None:
        _at_least(self, 1, "dense", "terms")


@dataclass(frozen=True)
class Track:
    """Everything but the objective, held equal for all entrants."""

    name: str
    model: Model
    pretrain: Pretrain
    finetune: Finetune
    evaluate: Evaluate
    mine: Mine = Mine()
    representation: Representations = Representations()
    title: str = ""
    description: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)  # what the command line changed
    adapt: Pretrain | None = field(default=None, metadata=LATER)  # more pre-training, on the target corpus
    distil: Distil = field(default=Distil(), metadata=LATER)

    @property
    def identity(self) -> str:
        """Tells tracks apart whose rows may not stand in one column."""
        parts = {k: v for k, v in counted(self, True).items() if k not in ("name", "title", "description", "overrides")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Bm25:
    """The lexical baseline of the bm25s library, Lucene's variant. It stands in tables but is no objective."""

    k1: float = 1.5
    b: float = 0.75

    name: ClassVar[str] = "bm25"
    pretrains: ClassVar[bool] = False


@dataclass(frozen=True)
class Entrant:
    """One configured objective, a released checkpoint in place of its pre-training, or BM25."""

    name: str  # as the tables show it
    objective: Any  # an Objective, or Bm25
    representation: str
    checkpoint: str = ""  # a folder or hub id to fine-tune instead of pre-training
    distribution: str = "retrobench"
    version: str = ""
    code: str = ""  # distribution and version, or a hash of source that may change under them

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.objective)

    @property
    def pretrains(self) -> bool:
        return bool(self.objective.pretrains) and not self.checkpoint


@dataclass(frozen=True)
class Experiment:
    """A track, an entrant and a seed: all that a row depends on. RetrobenchError where they do not go together."""

    track: Track
    entrant: Entrant
    seed: int

    def __post_init__(self) -> None:
        track, objective = self.track, self.entrant.objective
        for section, settings in self._pretraining().items():
            if not settings.corpus:
                raise RetrobenchError(f"Track {track.name} names no {section}.corpus; give one or more dataset ids.")
            if objective.couples_batch and settings.accumulation > 1:
                raise RetrobenchError(
                    f"{objective.name} compares the examples of a batch, so gradients cannot be accumulated over "
                    f"{settings.accumulation} of them. Set {section}.accumulation=1 and a larger {section}.batch."
                )
        if self.entrant.representation != "bm25":
            self._check_finetuning()

    def _pretraining(self) -> dict[str, Pretrain]:
        sections = {"pretrain": self.track.pretrain, "adapt": self.track.adapt}
        return {name: part for name, part in sections.items() if part is not None and self.entrant.pretrains}

    def _check_finetuning(self) -> None:
        track, settings = self.track, self.track.finetune
        if not settings.queries:
            raise RetrobenchError(f"Track {track.name} names no finetune.queries; give a dataset id.")
        if settings.accumulation > 1:
            raise RetrobenchError(
                "finetune.accumulation must be 1: in-batch negatives compare a batch's examples. Change finetune.batch."
            )
        if settings.hard and not settings.negatives:
            raise RetrobenchError(
                "finetune.hard names negatives, but finetune.negatives is 0, so none would be used. Set it."
            )
        if track.mine.depth and not settings.negatives and not track.distil.teacher:
            raise RetrobenchError(
                "mine.depth mines hard negatives, but finetune.negatives is 0, so none would be used. Set it, or "
                "mine.depth=0."
            )
        if track.distil.teacher and not track.mine.depth:
            raise RetrobenchError(
                "distil.teacher scores mined candidates, but mine.depth is 0. Set it, or give distil.scores."
            )

    @property
    def corpora(self) -> tuple[str, ...]:
        """What is pre-trained on."""
        return tuple(name for settings in self._pretraining().values() for name in settings.corpus)

    @property
    def datasets(self) -> tuple[str, ...]:
        """What is evaluated, each group as its members."""
        return tuple(dict.fromkeys(name for given in self.track.evaluate.datasets for name in rules.expand(given)))

    @property
    def at_test(self) -> Experiment:
        """The same with texts read as in evaluation, where that differs from fine-tuning."""
        asked, trained = self.track.evaluate, self.track.finetune
        changed: dict[str, Any] = {"query_length": asked.query_length, "passage_length": asked.passage_length}
        changed = {name: value for name, value in changed.items() if value}
        if asked.titles is not None:
            changed["titles"] = asked.titles
        return replace(self, track=replace(self.track, finetune=replace(trained, **changed))) if changed else self
