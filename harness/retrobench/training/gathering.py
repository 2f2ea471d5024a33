"""The same tensors of all processes, with gradients: every query of a step is held against every passage of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from retrobench.core import processes

__all__ = ["gathered"]


def gathered(rows: Tensor) -> Tensor:
    """The rows [n, ...] of all processes below each other, [processes * n, ...]; alone `rows` itself.

    On the way back the gradients that all processes have for a row are added up at the process it came from. n must be
    the same in each.
    """
    found: Tensor = rows if processes.size() == 1 else _Gathered.apply(rows)  # type: ignore[no-untyped-call]
    return found


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        every = [torch.empty_like(rows) for _ in range(processes.size())]
        distributed.all_gather(every, rows.contiguous())
        return torch.cat(every)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(processes.size())[processes.rank()]
