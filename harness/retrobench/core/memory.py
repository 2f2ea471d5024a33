"""How much memory this process has taken at most."""

from __future__ import annotations

import resource
import sys

__all__ = ["gpu_memory", "peak_memory"]


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
