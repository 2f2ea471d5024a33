"""Settings that depend on the machine: the meaning of "auto" for precision and compilation."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

import torch

from retrobench.config import Optimisation, Precision, ResolvedPrecision
from retrobench.core import computes_bf16
from retrobench.errors import RetrobenchError

__all__ = ["compiles", "on_this_machine", "resolve_precision"]

Settings = TypeVar("Settings", bound=Optimisation)


def resolve_precision(precision: Precision, setting: str = "precision") -> ResolvedPrecision:
    """Return the precision of matrix products on this machine; an error names it as `setting`.

    "auto" chooses bfloat16 where the machine computes it natively. GPUs before Ampere emulate it, which is slower than
    float32, so they compute in float16. RetrobenchError for float16 without a GPU.
    """
    has_gpu = torch.cuda.is_available()
    if precision == "fp16" and not has_gpu:
        raise RetrobenchError(
            f"{setting} is fp16, which needs a GPU: a processor computes it thousands of times slower. "
            f"Set {setting} to auto, bf16 or fp32."
        )
    if precision != "auto":
        return precision
    if has_gpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if computes_bf16() else "fp32"


def compiles(settings: Optimisation) -> Literal["auto", "on", "off"]:
    """Return "on" if transformer layers are compiled: by default on a GPU only, since a processor gains nothing."""
    choice = settings.performance.compile
    if choice == "auto" and torch.cuda.is_available():
        return "on"
    return choice


def on_this_machine(settings: Settings) -> Settings:
    """Return the settings with "auto" replaced by its meaning on this machine."""
    performance = replace(settings.performance, compile=compiles(settings))
    return replace(settings, precision=resolve_precision(settings.precision), performance=performance)
