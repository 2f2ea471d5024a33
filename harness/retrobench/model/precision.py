"""The precision of matrix products: a context of torch's autocast."""

from __future__ import annotations

import torch

from retrobench.config import ResolvedPrecision

__all__ = ["autocast"]

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: ResolvedPrecision) -> torch.autocast:
    """Return a context in which a device, "cpu" or "cuda", computes matrix products in `precision`.

    Each context rounds the weights anew, once. For fp32 it leaves the products as they are.
    """
    half = _HALVES.get(precision)
    return torch.autocast(device, half or torch.bfloat16, enabled=half is not None)
