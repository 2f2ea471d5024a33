"""The same tensors of all processes, with gradients: every query of a step is held against every passage of it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.distributed import nn as collective

__all__ = ["gathered", "processes", "rank"]


def processes() -> int:
    """How many train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def gathered(rows: Tensor) -> Tensor:
    """The rows [n, ...] of all processes below each other, [processes * n, ...]; alone `rows` itself.

    On the way back the gradients that all processes have for a row are added up at the process it came from. n must be
    the same in each.
    """
    if processes() == 1:
        return rows
    parts = collective.functional.all_gather(rows.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(cast("tuple[Tensor, ...]", parts))
