"""
The device, the size and the time of a run of benchmarks. No library is imported before a benchmark runs.

* Setting   passed to every benchmark
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, TypeVar

__all__ = ["Setting"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Setting:
    """The device to measure on, and whether only equality is checked, on small data."""

    device: Literal["cpu", "cuda"]
    smoke: bool = False
    rounds: int = 0  # of each side; 0 leaves the number to the case
    deadline: float | None = None  # a time of `time.time`, after which no case and no round begins
    released_feed: bool = True  # whether `objectives` also collates as released, which takes most of its time

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def choose(self, *, smoke: _T, cpu: _T, cuda: _T) -> _T:
        """Return the value for this setting; a smoke run has a single value for both devices."""
        if self.smoke:
            return smoke
        if self.cuda:
            return cuda
        return cpu

    def count_rounds(self, usual: int) -> int:
        """Return the rounds of each side, where a case has its `usual` number."""
        if self.smoke:
            return 1
        return self.rounds or usual

    def is_over(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and time.time() >= self.deadline

    def start(self) -> float:
        """Return the time once the device has finished its work; the argument of `seconds`."""
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, start: float) -> float:
        """Return the seconds from `start` until the device has finished its work."""
        return self.start() - start
