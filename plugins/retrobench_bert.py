"""Vanilla BERT: the base model as it is, no further pre-training. The papers' baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from retrobench import Passage, Vocabulary, hookimpl

if TYPE_CHECKING:
    import torch

    from retrobench.model import Backbone


@dataclass(frozen=True)
class Bert:
    """The base model goes to fine-tuning untouched."""

    name: ClassVar[str] = "bert"
    paper: ClassVar[str] = "Devlin et al., NAACL 2019, arXiv:1810.04805"
    pretrains: ClassVar[bool] = False
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        raise TypeError("bert does not pre-train")

    def wrap(self, backbone: Backbone) -> torch.nn.Module:
        raise TypeError("bert does not pre-train")


@hookimpl
def retrobench_objectives() -> Sequence[type[Bert]]:
    return [Bert]
