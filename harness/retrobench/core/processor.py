"""Facts about the processor that decide which code runs, as Linux states them."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["computes_bf16", "processor_name"]


def processor_name() -> str:
    """Return the processor's model name; its architecture where the system names no model."""
    return _field("model name") or platform.processor() or platform.machine()


def computes_bf16() -> bool:
    """Return whether the processor multiplies matrices of bfloat16 by instructions of its own (AVX-512 BF16)."""
    return "avx512_bf16" in _field("flags").split()


@cache
def _field(name: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return ""
