"""
Memory of this process, as the system counts it.

* Watch, anonymous   its own memory; pages of mapped files do not count, for the system can take them back
* measure_peak       the most that a round of work holds
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from retrobench.core import release_freed_memory

__all__ = ["Watch", "anonymous", "measure_peak"]

SECONDS = 0.005  # between two looks


class Watch:
    """Record the most anonymous memory of this process while the context lasts."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self.peak = anonymous()  # memory freed before the first look counts too
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._ended.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous())

    def _look(self) -> None:
        while not self._ended.wait(SECONDS):
            self.peak = max(self.peak, anonymous())


def anonymous() -> int:
    """Return the bytes of this process's anonymous memory that are resident."""
    return _read_status("RssAnon")


def measure_peak(work: Callable[[], object], cuda: bool) -> float:
    """Return the most bytes that a call of `work` adds to the memory in use, on the GPU or in this process."""
    gc.collect()
    if cuda:
        return _measure_gpu_peak(work)
    release_freed_memory()  # it would count as in use
    with suppress(OSError):  # without this right the peak is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5")
    in_use = _read_status("VmRSS")
    work()
    return float(max(0, _read_status("VmHWM") - in_use))


def _measure_gpu_peak(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    in_use = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - in_use)


def _read_status(name: str) -> int:
    """Return a field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
