"""What this machine can do in this run: matrix products and copies, the ceilings that shares of the floor refer to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Ceilings", "ceilings"]

_TIMES = 5


@dataclass(frozen=True)
class Ceilings:
    """FLOP/s of square matrix products by precision, and bytes read and written a second by a copy."""

    flops: dict[str, float]
    copy: float

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in self.flops.items())
        return f"matrix products {rates}; copies {self.copy / 1e9:,.0f} GB/s"


def ceilings(device: str, smoke: bool = False) -> Ceilings:
    """Measured on the spot, in about a second; in none for a smoke run, whose shares of it say nothing."""
    size, numbers = (64, 2**10) if smoke else (8192, 2**28) if device == "cuda" else (2048, 2**26)
    flops = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        # Not zeros, which a processor multiplies faster.
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        flops[name] = 2.0 * size**3 / _median(lambda a=left, b=right: a @ b, device)  # type: ignore[misc]
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return Ceilings(flops, 8.0 * numbers / _median(lambda: target.copy_(source), device))


def _median(work: Callable[[], object], device: str) -> float:
    times = []
    for _ in range(_TIMES + 2):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])
