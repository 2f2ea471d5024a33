"""The memory of this process: its peak, and how the allocator treats what is freed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys

__all__ = ["gpu_memory", "keep_freed_memory", "peak_memory"]


def peak_memory() -> float:
    """Return the most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def gpu_memory() -> dict[str, float]:
    """Return this process's peak GPU memory as `peak_memory_bytes`; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {"peak_memory_bytes": float(torch.cuda.max_memory_allocated())}


def keep_freed_memory() -> None:
    """Tell glibc to keep the memory that this process frees, for as long as it lives. The user's own setting stands.

    Without it each step of training on a CPU returns its memory and faults it in again: a fifth of its time.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in ((-1, 2**31 - 1), (-3, 2**25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, from malloc.h
            mallopt(parameter, value)
