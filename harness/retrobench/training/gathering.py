"""Gather tensors of all processes, with gradients: a query of one process competes with passages of every process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from retrobench.core import processes

__all__ = ["gathered"]


def gathered(rows: Tensor) -> Tensor:
    """Return the rows [n, ...] of all processes in order of rank, [world size * n, ...].

    n must be equal in all processes. The backward pass adds up every process's gradients of a row, at the process that
    owns the row. A single process gets `rows` itself.
    """
    if processes.size() == 1:
        return rows
    all_rows: Tensor = _Gathered.apply(rows)  # type: ignore[no-untyped-call]
    return all_rows


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        by_rank = [torch.empty_like(rows) for _ in range(processes.size())]
        distributed.all_gather(by_rank, rows.contiguous())
        return torch.cat(by_rank)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(processes.size())[processes.rank()]
