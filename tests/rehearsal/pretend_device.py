"""
The pretend device in a Python process: `torch.cuda` speaks of one card, whose work the built library does on the host.

* install_with_torch    bring the device into this process when it imports torch

`$RETROBENCH_REHEARSAL` names the built library. A module is compiled only with a named backend, such as "aot_eager",
since torch's default one writes kernels for a real card.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pretend_steps
from pretend_imports import around_import

__all__ = ["install_with_torch"]

FREE, TOTAL = 2**36, 2**37  # bytes of memory that the card says it has


@dataclass(frozen=True)
class Properties:
    """The properties of a card that computes bfloat16."""

    name: str = "Pretend"
    major: int = 9
    minor: int = 0
    total_memory: int = TOTAL
    multi_processor_count: int = 64
    warp_size: int = 32
    max_threads_per_multi_processor: int = 2048
    regs_per_multiprocessor: int = 2**16
    shared_memory_per_block_optin: int = 2**17


def install_with_torch() -> None:
    """Bring the device into this process when it imports torch, and a step's rule when it imports the training loop."""
    around_import("torch", _install, before=_load_library)
    around_import("retrobench.training.loop", pretend_steps.watch)


def _load_library() -> None:
    # Before torch, which asks only once for a backend's hooks.
    ctypes.CDLL(os.environ["RETROBENCH_REHEARSAL"], ctypes.RTLD_GLOBAL)


def _install(torch: Any) -> None:
    """Give torch the functions that a build for CUDA has. The rest of `torch.cuda` is torch's own."""
    for name, function in _native_functions(torch.ops.rehearsal).items():
        setattr(torch._C, name, function)
    cuda = torch.cuda
    cuda._initialized = True
    cuda._cudart = Runtime
    cuda._get_device_properties = lambda index: Properties()
    cuda._exchange_device = lambda index: min(index, 0)
    cuda._maybe_exchange_device = lambda index: min(index, 0)  # torch's tracer tells the two apart
    cuda.default_generators = (torch.ops.rehearsal.default_generator(),)
    cuda.current_stream = Stream
    cuda.default_stream = Stream
    for module in (cuda, cuda.streams):
        module.Event = Event
        module.Stream = Stream
    torch.nn.Module.compile = _with_named_backend(torch.nn.Module.compile)


def _native_functions(rehearsal: Any) -> Mapping[str, Callable[..., Any]]:
    """Return functions of `torch._C`, by name."""

    def statistics(index: int) -> dict[str, Any]:
        current, peak = rehearsal.usage()
        amount = {"all": {"current": current, "peak": peak}}
        return {"allocated_bytes": amount, "reserved_bytes": amount}

    return {
        "_cuda_getDeviceCount": _count_devices,
        "_cuda_getDevice": lambda: 0,
        "_cuda_setDevice": lambda index: None,
        "_cuda_getCurrentRawStream": lambda index: 0,
        "_cuda_isInBadFork": lambda: False,
        "_cuda_synchronize": lambda: pretend_steps.wait("torch.cuda.synchronize"),
        "_cuda_set_sync_debug_mode": rehearsal.set_sync_mode,
        "_cuda_get_sync_debug_mode": rehearsal.sync_mode,
        "_cuda_emptyCache": lambda: None,
        "_cuda_memoryStats": statistics,
        "_cuda_resetPeakMemoryStats": lambda index: rehearsal.reset_peak(),
    }


def _count_devices() -> int:
    """Return 1, or 0 where the card is hidden as from CUDA."""
    return int(os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1"))


class Runtime:
    """CUDA's runtime, as `torch.cuda.cudart` returns it."""

    @staticmethod
    def cudaMemGetInfo(index: int) -> tuple[int, int]:
        return FREE, TOTAL


class Event:
    """An event of the only stream. Its work is done when it is recorded."""

    def __init__(self, *options: Any, **named_options: Any) -> None: ...

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None:
        pretend_steps.wait("an event's synchronize")

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Event) -> float:
        return 1.0  # milliseconds; time means nothing here


class Stream:
    """The only stream."""

    def __init__(self, *options: Any, **named_options: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def synchronize(self) -> None:
        pretend_steps.wait("a stream's synchronize")

    def query(self) -> bool:
        return True

    def __enter__(self) -> None: ...

    def __exit__(self, *error: Any) -> None: ...


def _with_named_backend(compile_module: Callable[..., None]) -> Callable[..., None]:
    """Return `torch.nn.Module.compile` that does nothing without a backend."""

    @functools.wraps(compile_module)
    def compile_for_rehearsal(module: Any, *arguments: Any, **options: Any) -> None:
        if "backend" in options:
            compile_module(module, *arguments, **options)

    return compile_for_rehearsal
