"""The ceilings of this machine, measured in this run: matrix products and copies, to which shares of a floor refer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from retrobench.bench.frame import Floor, half_precision
from retrobench.bench.setting import Setting
from retrobench.model import has_int8_product, int8_product

__all__ = ["Ceilings", "measure_ceilings"]

WARMUPS = 2
ROUNDS = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Ceilings:
    """FLOP/s of square matrix products by precision, and bytes read and written a second by a copy."""

    flops: dict[str, float]
    copy: float

    def __str__(self) -> str:
        rates = []
        for precision, rate in self.flops.items():
            rates.append(f"{precision} {rate / 1e9:,.0f} GFLOP/s")
        products = ", ".join(rates)
        return f"matrix products {products}; copies {self.copy / 1e9:,.0f} GB/s"

    def seconds(self, floor: Floor) -> float:
        """Return the least time of a unit of work."""
        computing = floor.flops / self.flops[floor.precision]
        copying = floor.bytes / self.copy
        return max(computing, copying)


def measure_ceilings(setting: Setting) -> Ceilings:
    """Measure the ceilings, in about a second; a smoke run takes no time, and its shares mean nothing."""
    size = setting.choose(smoke=64, cpu=2048, cuda=8192)
    numbers = setting.choose(smoke=2**10, cpu=2**26, cuda=2**28)
    flops: dict[str, float] = {}
    for precision in ("fp32", half_precision()):
        dtype = DTYPES[precision]
        # Not zeros, which a processor multiplies faster.
        first = torch.randn(size, size, device=setting.device).to(dtype)
        second = torch.randn(size, size, device=setting.device).to(dtype)
        multiply = partial(torch.matmul, first, second)
        seconds = _median_seconds(multiply, setting)
        flops[precision] = 2.0 * size**3 / seconds
    if not setting.cuda and has_int8_product(size):
        numbers_int8 = torch.randint(-127, 128, (size, size), dtype=torch.int8)
        product = torch.empty(size, size, dtype=torch.int32)
        seconds = _median_seconds(partial(int8_product, numbers_int8, numbers_int8, product), setting)
        flops["int8"] = 2.0 * size**3 / seconds
    source = torch.randn(numbers, device=setting.device)
    target = torch.empty_like(source)
    copy = partial(target.copy_, source)
    bytes_moved = 8.0 * numbers  # read and written
    return Ceilings(flops, bytes_moved / _median_seconds(copy, setting))


def _median_seconds(work: Callable[[], object], setting: Setting) -> float:
    times = []
    for _ in range(WARMUPS + ROUNDS):
        start = setting.start()
        work()
        times.append(setting.seconds(start))
    return statistics.median(times[WARMUPS:])
