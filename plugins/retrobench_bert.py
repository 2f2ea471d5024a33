"""Vanilla BERT: the base model without further pre-training, the papers' baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from retrobench import hookimpl


@dataclass(frozen=True)
class Bert:
    """The base model goes to fine-tuning untouched."""

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "bert"
    paper: ClassVar[str] = "Devlin et al., NAACL 2019, arXiv:1810.04805"
    pretrains: ClassVar[bool] = False
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}


@hookimpl
def retrobench_objectives() -> Sequence[type[Bert]]:
    return [Bert]
