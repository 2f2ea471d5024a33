"""The contract of a pre-training objective, version 1. A plugin author reads only this file.

A RetrobenchError of `collate`, `wrap` or a forward is shown to the user as one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:  # the command line lists objectives without importing torch
    import numpy as np
    import torch

    from retrobench.model import Backbone

__all__ = ["ChoosesExamples", "Context", "ModelFolder", "Objective", "Passage", "Step", "Vocabulary", "hookimpl"]

hookspec = HookspecMarker("retrobench")
hookimpl = HookimplMarker("retrobench")


class Passage(NamedTuple):
    """A tokenised document without special tokens. `starts` is True at the first token of a word."""

    title: np.ndarray  # [T] token ids, empty without a title
    title_starts: np.ndarray  # [T] bool
    text: np.ndarray  # [N] token ids
    text_starts: np.ndarray  # [N] bool


@dataclass(frozen=True)
class Vocabulary:
    """Facts about the tokenizer's ids. `special` holds the special, added and unused ids, which are no words."""

    size: int  # rows of the word matrix, at least the number of ids
    pad: int
    cls: int
    sep: int
    mask: int
    special: frozenset[int] = field(repr=False)
    sentence_ends: frozenset[int] = field(default=frozenset(), repr=False)  # ids such as . ? !


class Step(NamedTuple):
    """The result of a forward: weighted scalar losses, whose sum is minimised, and scalars to log."""

    losses: dict[str, torch.Tensor]
    metrics: dict[str, torch.Tensor]
    vectors: torch.Tensor | None = None  # [n, ...] with `couples_batch`, for `couple`


class ModelFolder(str):
    """The type of a setting that names another masked language model: a folder, a hub id, or "" for the track's base.

    Its vocabulary must be the base's. `Context.load` loads it, and its hash is part of the result.
    """

    __slots__ = ()


@dataclass(frozen=True)
class Context:
    """The training that `wrap` makes a module for."""

    vocabulary: Vocabulary
    max_length: int  # of a text in tokens, special tokens included
    load: Callable[[str], torch.nn.Module] = field(repr=False)  # a ModelFolder -> transformers' ...ForMaskedLM
    stage: Literal["pretrain", "adapt"] = "pretrain"
    # Trained parameters that the earlier stage's objective added to the backbone, by name; empty in the first stage.
    added: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)


class Objective(Protocol):
    """A frozen dataclass whose fields are the objective's settings. Its docstring is the idea in a sentence.

    Before each forward the harness seeds torch's default generators from (seed, step, shard), so draws of a forward on
    the batch's device are reproducible. State between steps belongs in buffers of the module.
    """

    contract: ClassVar[int]  # the version of this contract that the class keeps, 1
    name: ClassVar[str]  # on the command line
    paper: ClassVar[str]  # the citation
    pretrains: ClassVar[bool]  # False: the base model is used unchanged; `collate` and `wrap` are omitted
    couples_batch: ClassVar[bool]  # True: a loss compares examples of the whole batch
    representation: ClassVar[str]  # the harness's representation for this encoder
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]  # settings of `NAME:PRESET`; `adapt.KEY` is of that stage

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return a batch on the CPU, with the `attention_mask` [B, L] by which tokens are counted.

        Passages are whole documents. The number of rows B is free, but equal in every call for equally many passages.
        Draw every random choice from `generator`, and keep the work cheap.
        """

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
        """Return a module that holds `backbone` and whose `forward(progress, **batch)` returns a `Step`.

        `progress` is the share of finished optimizer steps, 0 to 1. Checkpoints keep the module's further parameters;
        the exported encoder drops them.

        With `couples_batch`, a forward reads a shard of the batch and returns `vectors`. The module's `couple(progress,
        vectors)` gets the rows of all shards in order, and returns a Step with the losses that compare them. A forward
        may be computed twice, so state changes only in `couple`, and in `begin(progress)`, an optional method called
        before a step's forwards. Every process calls both with equal arguments.
        """


class ChoosesExamples(Protocol):
    """An objective with this further method leaves documents out, or makes several examples of one."""

    def examples(self, lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the document [E] of each example and its tokens [E], given the tokens [N] of each document."""


@hookspec
def retrobench_objectives() -> Sequence[type[Objective]]:  # type: ignore[empty-body]
    """Return the plugin's objective classes."""
