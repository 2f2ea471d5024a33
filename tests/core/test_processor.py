"""Linux and torch report equal facts about the processor."""

from __future__ import annotations

import torch

from retrobench.core import computes_bf16


def test_bf16_is_detected_as_by_torch() -> None:
    capabilities = torch.cpu.get_capabilities()
    assert computes_bf16() is capabilities.get("avx512_bf16", False)
