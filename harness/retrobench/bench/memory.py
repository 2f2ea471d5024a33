"""
Memory of this process, as the system counts it.

* Watch, anonymous   its own memory: pages of mapped files are the system's to take back, and do not count
* round_peak         the most that a round of work holds
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["Watch", "anonymous", "round_peak"]

SECONDS = 0.005  # between two looks


class Watch:
    """Record the most anonymous memory of this process while the context lasts."""

    def __init__(self) -> None:
        self.peak, self._ended = 0, threading.Event()
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
    return _status("RssAnon")


def round_peak(work: Callable[[], object], cuda: bool) -> float:
    """Return the most bytes that a call of `work` holds above those held before, on the GPU or in this process."""
    gc.collect()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed and kept would count as held
    with suppress(OSError):  # without the right to it the peak is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return float(max(0, _status("VmHWM") - before))


def _status(name: str) -> int:
    """Return a field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
