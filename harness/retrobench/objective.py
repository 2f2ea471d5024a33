"""The contract of a pre-training objective. A plugin author reads only this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:  # the command line lists objectives without importing torch
    import numpy as np
    import torch

    from retrobench.model import Backbone

__all__ = ["Objective", "Passage", "Step", "Vocabulary", "hookimpl", "hookspec", "retrobench_objectives"]

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


class Step(NamedTuple):
    """The result of a forward: weighted scalar losses, whose sum is minimised, and scalars to log."""

    losses: dict[str, torch.Tensor]
    metrics: dict[str, torch.Tensor]


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass whose fields are the objective's settings. Its docstring is the idea in a sentence.

    Before each forward the harness seeds torch's default generators from (seed, step, shard), so masks
    drawn in `forward` on the batch's device are reproducible. State between steps belongs in buffers of the module.
    """

    contract: ClassVar[int]  # the version of this contract that the class keeps, 1
    name: ClassVar[str]  # on the command line
    paper: ClassVar[str]  # the citation
    pretrains: ClassVar[bool]  # False: the base model is used unchanged; `collate` and `wrap` are omitted
    couples_batch: ClassVar[bool]  # True: the loss compares examples, so a batch stays whole
    representation: ClassVar[str]  # the harness's representation for this encoder
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]  # named settings, as in `--objective NAME:PRESET`

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return a batch on the CPU, with the `attention_mask` [B, L] by which tokens are counted.

        Passages are whole documents. The number of rows B is free, but equal in every call for equally many passages.
        Draw every random choice from `generator`, and keep the work cheap.
        """

    def wrap(self, backbone: Backbone) -> torch.nn.Module:
        """Return a module that holds `backbone` and whose `forward(progress, **batch)` returns a `Step`.

        `progress` is the share of finished optimizer steps, 0 to 1. Checkpoints keep the module's further parameters;
        the exported encoder drops them.
        """


@hookspec
def retrobench_objectives() -> Sequence[type[Objective]]:  # type: ignore[empty-body]
    """Return the plugin's objective classes."""
