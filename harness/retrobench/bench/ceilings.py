"""The ceilings of this machine, measured in this run: matrix products and copies, to which shares of a floor refer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from retrobench.bench.frame import Floor, Setting

__all__ = ["Ceilings", "ceilings"]

_WARMUPS, _ROUNDS = 2, 5


@dataclass(frozen=True)
class Ceilings:
    """FLOP/s of square matrix products by precision, and bytes read and written a second by a copy."""

    flops: dict[str, float]
    copy: float

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in self.flops.items())
        return f"matrix products {rates}; copies {self.copy / 1e9:,.0f} GB/s"

    def seconds(self, floor: Floor) -> float:
        """Return the least time of a unit of work."""
        return max(floor.flops / self.flops[floor.precision], floor.bytes / self.copy)


def ceilings(setting: Setting) -> Ceilings:
    """Measure them, in about a second; a smoke run takes no time, and its shares mean nothing."""
    size = setting.choose(smoke=64, cpu=2048, cuda=8192)
    numbers = setting.choose(smoke=2**10, cpu=2**26, cuda=2**28)
    flops = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        # Not zeros, which a processor multiplies faster.
        left = torch.randn(size, size, device=setting.device).to(dtype)
        right = torch.randn(size, size, device=setting.device).to(dtype)
        flops[name] = 2.0 * size**3 / _median_seconds(partial(torch.matmul, left, right), setting)
    source = torch.randn(numbers, device=setting.device)
    target = torch.empty_like(source)
    return Ceilings(flops, 8.0 * numbers / _median_seconds(partial(target.copy_, source), setting))


def _median_seconds(work: Callable[[], object], setting: Setting) -> float:
    times = []
    for _ in range(_WARMUPS + _ROUNDS):
        start = setting.start()
        work()
        times.append(setting.seconds(start))
    return statistics.median(times[_WARMUPS:])
