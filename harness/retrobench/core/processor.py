"""Facts about the processor, from Linux. They decide which code runs."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["computes_bf16", "computes_int8", "processor_name"]


def processor_name() -> str:
    """Return the processor's model name, or its architecture where the model is unknown."""
    return _field("model name") or platform.processor() or platform.machine()


def computes_bf16() -> bool:
    """Tell whether the processor has instructions for bfloat16 products (AVX-512 BF16)."""
    return "avx512_bf16" in _field("flags").split()


def computes_int8() -> bool:
    """Tell whether the processor has instructions for exact int8 products (AVX-512 VNNI)."""
    return "avx512_vnni" in _field("flags").split()


@cache
def _field(name: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo, or an empty text."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return ""
