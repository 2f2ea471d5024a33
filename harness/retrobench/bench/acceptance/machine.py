"""The device itself: its name and memory, the versions of the libraries, and a product that it computes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from retrobench.bench.acceptance.check import Check
from retrobench.bench.frame import require_close
from retrobench.bench.setting import Setting
from retrobench.core import provenance
from retrobench.training import resolve_precision

__all__ = ["checks"]

SIZE = 256


def checks(setting: Setting) -> Iterator[Check]:
    """Yield the facts about each device, and a product on each."""
    if not setting.cuda:
        yield Check("processor", _describe_processor)
        return
    for number in range(torch.cuda.device_count()):
        yield Check(f"cuda:{number}", partial(_describe_gpu, number))


def _describe_processor() -> str:
    facts = provenance.hardware()
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads; auto is {resolve_precision('auto')}"
    )


def _describe_gpu(number: int) -> str:
    """Return name, memory, capability and precision of a GPU, once its product equals the processor's."""
    device = torch.device("cuda", number)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(SIZE, SIZE, generator=generator)
    second = torch.randn(SIZE, SIZE, generator=generator)
    product = (first.to(device) @ second.to(device)).cpu()
    compared = require_close(product, first @ second, 1e-5, "product")
    free, total = torch.cuda.mem_get_info(device)
    major, minor = torch.cuda.get_device_capability(device)
    memory = f"{total / 2**30:.0f} GiB, {free / 2**30:.0f} GiB free"
    name = torch.cuda.get_device_name(device)
    return f"{name}, {memory}, capability {major}.{minor}; auto is {resolve_precision('auto')}; {compared}"
