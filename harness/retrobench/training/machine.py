"""Settings that depend on the machine: the meaning of "auto" for precision and compilation."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

import torch

from retrobench.config import Optimisation, Precision
from retrobench.core import computes_bf16

__all__ = ["compiles", "on_this_machine", "resolve_precision"]

Settings = TypeVar("Settings", bound=Optimisation)


def resolve_precision(precision: Precision) -> Literal["bf16", "fp32"]:
    """Return "bf16" or "fp32"; "auto" chooses bfloat16 where this machine computes it natively."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        # Cards before Ampere emulate bfloat16, which is slower than float32.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
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
