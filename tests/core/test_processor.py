"""What Linux says of the processor is what torch finds out by itself."""

from __future__ import annotations

import torch

from retrobench.core import computes_bf16


def test_bf16_is_known_as_torch_knows_it() -> None:
    assert computes_bf16() is torch.cpu.get_capabilities().get("avx512_bf16", False)
