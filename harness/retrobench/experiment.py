"""What is run: a track fixes everything but the objective, an entrant is one configured objective."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from retrobench.errors import RetrobenchError
from retrobench.measures import deepest

__all__ = [
    "Bm25",
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
    "Track",
]


Precision = Literal["auto", "bf16", "fp32"]


def _at_least(record: object, least: int, *names: str) -> None:
    for name in names:
        if getattr(record, name) < least:
            raise ValueError(f"{name} is {getattr(record, name)}; the least is {least}.")


@dataclass(frozen=True)
class Optimisation:
    """AdamW with warm-up, decay and clipping. Steps are optimizer steps."""

    steps: int
    batch: int  # examples per forward and process
    learning_rate: float
    warmup: float = 0.1  # share of the steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    floor: float = 0.0  # share of the learning rate that the decay ends at
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm; 0 leaves gradients as they are
    accumulation: int = 1  # forwards per step
    bucket: int = 32  # batches sorted by length together; 0 draws them at random, as the papers did
    precision: Precision = "auto"
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        _at_least(self, 0, "steps", "bucket", "learning_rate", "clip")
        _at_least(self, 1, "batch", "accumulation", "checkpoint_every", "log_every")

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        warm = max(1, round(self.warmup * self.steps)) if self.warmup else 0
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
    """Further pre-training, the only stage in which objectives differ."""

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
    titles: bool = True
    query_length: int = 32
    passage_length: int = 144
    temperature: float = 1.0
    negatives: int = 0  # mined negatives per query in the second round; in-batch ones come on top

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 3, "query_length", "passage_length")
        _at_least(self, 0, "negatives")
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
class Evaluate:
    """Datasets and measures; the first measure of the first dataset ranks the table."""

    datasets: tuple[str, ...] = ()
    select: str = ""  # the dataset on which the better of the two rounds is chosen; empty takes the last
    measures: tuple[str, ...] = ("MRR@10", "nDCG@10", "Recall@100")
    depth: int = 1000  # documents kept per query

    def __post_init__(self) -> None:
        _at_least(self, 1, "depth")
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

    @property
    def identity(self) -> str:
        """Tells tracks apart whose rows may not stand in one column."""
        parts = {k: v for k, v in asdict(self).items() if k not in ("name", "title", "description", "overrides")}
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
        if self.entrant.pretrains and not track.pretrain.corpus:
            raise RetrobenchError(f"Track {track.name} names no pretrain.corpus; give one or more dataset ids.")
        if self.entrant.pretrains and objective.couples_batch and track.pretrain.accumulation > 1:
            raise RetrobenchError(
                f"{objective.name} compares the examples of a batch, so gradients cannot be accumulated over "
                f"{track.pretrain.accumulation} of them. Set pretrain.accumulation=1 and a larger pretrain.batch."
            )
        if self.entrant.representation != "bm25" and not track.finetune.queries:
            raise RetrobenchError(f"Track {track.name} names no finetune.queries; give a dataset id.")
        if self.entrant.representation != "bm25" and track.finetune.accumulation > 1:
            raise RetrobenchError(
                "finetune.accumulation must be 1: in-batch negatives compare a batch's examples. Change finetune.batch."
            )
