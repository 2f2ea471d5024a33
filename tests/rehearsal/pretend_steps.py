"""
No optimizer step waits for the device or sorts on it.

* strict        a context in which a wait raises, and so does a scatter that sorts
* watch         make every step of the training loop strict
* wait          raise in a strict context, for the functions of Python's that wait
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["strict", "wait", "watch"]

_is_strict = False


def wait(reason: str) -> None:
    """Raise in a strict context. A card's own `set_sync_debug_mode` does not see these waits."""
    if _is_strict:
        raise RuntimeError(f"called a synchronizing CUDA operation: {reason}")


@contextmanager
def strict(forbidden: bool = True) -> Iterator[None]:
    """Raise at a wait and at a scatter that sorts, within the context; with False allow both again."""
    import torch

    global _is_strict
    rehearsal = torch.ops.rehearsal
    earlier = _is_strict
    earlier_mode = rehearsal.sync_mode()
    _is_strict = forbidden
    rehearsal.forbid_sorting(forbidden)
    torch.cuda.set_sync_debug_mode("error" if forbidden else "default")
    try:
        yield
    finally:
        _is_strict = earlier
        rehearsal.forbid_sorting(earlier)
        rehearsal.set_sync_mode(earlier_mode)


def watch(loop_module: Any) -> None:
    """Make every step of the training loop strict. `loop_module` is `retrobench.training.loop`."""
    loop_module.Loop.step = strict()(loop_module.Loop.step)
