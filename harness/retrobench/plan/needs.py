"""Records of an experiment's needs, stage by stage: tokens, FLOPs, memory and disk. They are free of any machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from retrobench.plan import arithmetic
from retrobench.plan.arithmetic import Shape
from retrobench.plan.inventory import CollectionFacts

__all__ = ["LOGIT_BYTES", "ExperimentNeeds", "Kind", "StageNeeds", "StepMemory", "WorkItem"]

# A training holds the logits of a block of rows: a GiB in 32 bits, their copy in 16 bits, and the gradients.
LOGIT_BYTES = 2.5 * 2**30

Kind = Literal["tokenise", "pretrain", "finetune", "encode", "teach", "search"]


@dataclass(frozen=True)
class StepMemory:
    """Hold the sizes on which the memory of a training step depends: examples with their tokens, padding included."""

    shape: Shape
    batch: int  # examples of a step, of all processes together
    tokens: int  # per example
    shards: int = 1  # of the batch
    couples: bool = False  # a process holds all its shards at once, because the loss compares their examples
    pooled: int = 0  # texts per example with a stored vocabulary vector
    decoder: int = 0  # layers beside the encoder's
    kept: int = 0  # models of the encoder's size that are not trained
    gradient_cache: int = 0  # tokens embedded at a time
    texts: int = 1  # per example

    @property
    def fixed_bytes(self) -> float:
        """Return the bytes on the device without any example: weights, gradients, moments, a block of logits."""
        parameters = self.shape.parameters * (1 + self.decoder / self.shape.layers)
        cached = arithmetic.activation_bytes(self.shape, self.gradient_cache)
        kept = 4.0 * self.kept * self.shape.parameters  # float32, without gradients and moments
        return arithmetic.state_bytes(parameters) + kept + LOGIT_BYTES + cached

    @property
    def example_bytes(self) -> float:
        """Return the bytes that each example adds."""
        if self.gradient_cache:
            stored = 8.0 * self.shape.hidden * self.texts  # vectors and their gradients
        else:
            stored = arithmetic.activation_bytes(self.shape, self.tokens, self.decoder)
        return stored + arithmetic.pooled_bytes(self.shape, self.pooled)

    def examples(self, processes: int = 1) -> int:
        """Return the examples that a process holds at once: of all its shards, or of one."""
        if self.couples:
            return math.ceil(self.batch / processes)
        return self.batch // self.shards

    @property
    def device_bytes(self) -> float:
        """Return the bytes on the device of a single process."""
        return self.fixed_bytes + self.examples() * self.example_bytes


@dataclass(frozen=True)
class WorkItem:
    """Hold the size of one kind of work within a stage."""

    kind: Kind
    tokens: float = 0.0  # without padding
    flops: float = 0.0
    real: float = 1.0  # share of tokens in its batches that are no padding


@dataclass(frozen=True)
class StageNeeds:
    """Hold the needs of a stage, a line of the plan."""

    name: str
    items: tuple[WorkItem, ...]
    disk: float = 0.0  # bytes that stay in the store
    host: float = 0.0  # bytes of main memory, without models and activations
    device: float = 0.0  # bytes on the device
    section: str = ""  # the track's section of a training stage
    step: StepMemory | None = None  # of a training stage
    negatives: int = 0  # hard negatives per query


@dataclass(frozen=True)
class ExperimentNeeds:
    """Hold the stages of an experiment in the order in which they run, and the facts behind their needs."""

    stages: tuple[StageNeeds, ...]
    collections: tuple[CollectionFacts, ...]  # of each dataset that is read
    tested: tuple[CollectionFacts, ...]
    shape: Shape
    models: Mapping[str, int]  # model to download -> bytes
    assumed: tuple[str, ...]

    @property
    def missing(self) -> dict[str, int]:
        """Return each file to download with its bytes, 0 for an unknown size."""
        files = dict(self.models)
        for collection in self.collections:
            files |= collection.missing
        return files

    @property
    def trainings(self) -> list[StageNeeds]:
        """Return the stages that train."""
        return [stage for stage in self.stages if stage.step is not None]
