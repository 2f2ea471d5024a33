"""Peak memory of this process, and its allocator's treatment of freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys

__all__ = ["gpu_memory", "keep_freed_memory", "peak_memory", "release_freed_memory"]


def peak_memory() -> float:
    """Return the peak memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return float(peak)
    return float(peak * 1024)


def gpu_memory() -> dict[str, float]:
    """Return this process's peak GPU memory as `peak_memory_bytes`; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {"peak_memory_bytes": float(torch.cuda.max_memory_allocated())}


def keep_freed_memory() -> None:
    """Let glibc keep freed memory until this process ends, unless the user has set a threshold.

    Otherwise each training step on a CPU returns its memory and faults it in again, a fifth of its time.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in ((-1, 2**31 - 1), (-3, 2**25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, from malloc.h
            mallopt(parameter, value)


def release_freed_memory() -> None:
    """Return freed memory to the system, as far as glibc can.

    Kept memory lies in pieces that fit the work before it. Other work cannot use all of them, and takes more.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
