"""The contract of a pre-training objective. A plugin author needs to read this file and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:  # the command line lists objectives without paying for torch
    import numpy as np
    import torch

    from retrobench.model import Backbone

__all__ = ["Objective", "Passage", "Step", "Vocabulary", "hookimpl", "hookspec", "retrobench_objectives"]

hookspec = HookspecMarker("retrobench")
hookimpl = HookimplMarker("retrobench")


class Passage(NamedTuple):
    """One tokenised document, without special tokens. `starts` is True where a word begins."""

    title: np.ndarray  # [T] token ids, empty where the corpus has no titles
    title_starts: np.ndarray  # [T] bool
    text: np.ndarray  # [N] token ids
    text_starts: np.ndarray  # [N] bool


@dataclass(frozen=True)
class Vocabulary:
    """What the tokenizer says of its ids. `special` holds every id that is no word: special, added or unused."""

    size: int  # rows of the word matrix, which may exceed the tokenizer's ids
    pad: int
    cls: int
    sep: int
    mask: int
    special: frozenset[int] = field(repr=False)


class Step(NamedTuple):
    """What one forward gives: scalar losses, already weighted, whose sum is minimised; scalars worth logging."""

    losses: dict[str, torch.Tensor]
    metrics: dict[str, torch.Tensor]


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass whose fields are the objective's settings; its docstring is the idea in a sentence.

    Before each forward the harness seeds torch's default generators from (seed, step, micro-batch, rank): masks
    drawn in `forward` on the batch's own device repeat. State between steps belongs in buffers of the module.
    """

    name: ClassVar[str]  # on the command line
    paper: ClassVar[str]  # the citation
    pretrains: ClassVar[bool]  # False: the base model goes on as it is; `collate` and `wrap` are left out
    couples_batch: ClassVar[bool]  # True: the loss compares examples, so gradients may not be accumulated
    representation: ClassVar[str]  # which of the harness's representations the encoder is meant for
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]  # named settings, as in `--objective NAME:PRESET`

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """One batch on the CPU, cheap; every random choice is drawn from `generator`."""

    def wrap(self, backbone: Backbone) -> torch.nn.Module:
        """A module that holds `backbone` and whose `forward(progress, **batch)` gives a `Step`.

        `progress` is the share of optimizer steps done, 0 to 1. What the module adds is kept in checkpoints and
        thrown away in the exported encoder.
        """


@hookspec
def retrobench_objectives() -> Sequence[type[Objective]]:  # type: ignore[empty-body]
    """Return the objective classes this plugin provides."""
