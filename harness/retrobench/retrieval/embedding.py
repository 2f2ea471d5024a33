"""
Texts to vectors on disk: windows sorted by length, batches by tokens, no waiting for the device within a window.

* Window            the texts of a window, and its batches
* Embedded          the vectors of a batch
* Embedder          how a model embeds windows, and on which device
* fill              embed and write the windows of a `vectors.Writer`
* recipe            the settings of every embedding's cache key
* attention_kernels  the kernels of attention on a GPU
* choose_device     the device of this process
* send              copy a batch to the device without waiting for it
* token_budget      the tokens of a batch on a device

A window alone determines its batches, and one thread computes a batch. So vectors depend neither on the number of
processes and threads nor on an interruption.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from retrobench.config import Attention, ResolvedPrecision
from retrobench.core import processes
from retrobench.model import autocast
from retrobench.retrieval.vectors import Writer
from retrobench.retrieval.window_vectors import Embedded, Refuse, WindowVectors

__all__ = [
    "REVISION",
    "WINDOW",
    "Embedded",
    "Embedder",
    "Window",
    "attention_kernels",
    "choose_device",
    "fill",
    "recipe",
    "send",
    "token_budget",
]

REVISION = 2  # raise it when a change gives other bits for the same model and texts
WINDOW = 8192  # texts sorted by length together, and held in memory at a time
TOKENS = {"cpu": 2048, "cuda": 32768}  # of a batch, padding included: they stay in a CPU's cache, they fill a GPU


class Window(Protocol):
    """The texts of a window, in the order of their rows. `parallel` allows threads to embed batches together."""

    @property
    def parallel(self) -> bool: ...

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, of at most `tokens` tokens."""

    def batch(self, rows: np.ndarray) -> Any:
        """Return the texts of these rows, as `Embedder.embed` takes them."""


@dataclass(frozen=True)
class Embedder:
    """How texts are read, embedded and refused. `precision` is that of matrix products under autocast."""

    load: Callable[[int, int], Window]  # (first row, last row) -> their texts
    embed: Callable[[Any], Embedded]
    refuse: Refuse
    device: torch.device
    precision: ResolvedPrecision = "fp32"


def choose_device() -> torch.device:
    """Return the device for the models of this process: its own GPU, the first GPU if it is alone, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK") or 0)
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def recipe(attention: Attention = "auto") -> dict[str, str | int]:
    """Return the settings of a cache key that every embedding shares.

    A GPU and its kernel of attention stand in it: windows of one entry that two kinds of devices or kernels embedded
    would not be of one rounding.
    """
    settings: dict[str, str | int] = {"windows": WINDOW, "revision": REVISION}
    device = choose_device().type
    if device != "cpu":
        settings |= {"device": device, "attention": attention}
    return settings


def attention_kernels(device: torch.device, choice: Attention = "auto") -> AbstractContextManager[Any]:
    """Return a context in which torch computes attention on a GPU by the chosen kernel.

    Where it cannot compute a batch, the next kernel does: flash attention takes no mask, "math" takes everything.

    torch 2.11 to 2.13 prefer cuDNN on Hopper and Blackwell (`sdp_utils.cpp`). It builds a plan for each new shape
    [B, L], in 0.44 s as reported for a B200. MS MARCO's passages have 388 shapes, and 21,000 passages have 102 in 122
    batches, which take seconds. So "auto" leaves cuDNN out. Lengths rounded up to multiples of 8 would cost MS MARCO
    4 % more tokens and leave as many shapes, since B varies too.
    """
    if device.type != "cuda":
        return nullcontext()
    cudnn, flash, efficient, math = (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    )
    kernels = {
        "auto": [flash, efficient, math],
        "cudnn": [cudnn, flash, efficient, math],
        "efficient": [efficient, math],
        "math": [math],
    }
    return sdpa_kernel(kernels[choice], set_priority=True)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU's tensor on the device. A copy to a GPU from pinned memory does not wait for its other work."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def token_budget(device: torch.device) -> int:
    """Return the tokens of a batch on a device, padding included."""
    return TOKENS["cuda" if device.type == "cuda" else "cpu"]


def fill(writer: Writer, embedder: Embedder, advance: Callable[[int], None]) -> None:
    """Embed and write every window that is left to this process; rank 0 waits for the other ranks.

    `advance(n)` is called with the number of finished rows; rank 0 adds the other ranks' rows at the end. A non-finite
    vector raises `embedder.refuse`. While a GPU computes a window, the window before it is written.
    """
    pending: WindowVectors | None = None
    reported = writer.done
    processes.meet()  # before any process finishes: the folder may then be gone
    with _threads(embedder.device) as run_in_threads:
        for first, last in writer.windows(wait=processes.leads()):
            window = embedder.load(first, last)
            vectors = WindowVectors(first, last - first)
            batches = _SharedBatches(window.batches(token_budget(embedder.device)), advance)
            work = partial(_embed_batches, embedder, window, batches, vectors)
            with closing(batches):
                if window.parallel:
                    run_in_threads(work)
                else:
                    work()
            vectors.close()
            reported += last - first
            if pending:
                pending.write(writer, embedder.refuse)
            pending = vectors
            if not torch.cuda.is_available():  # nothing runs ahead
                pending.write(writer, embedder.refuse)
                pending = None
    if pending:
        pending.write(writer, embedder.refuse)
    if processes.leads() and writer.done > reported:
        advance(writer.done - reported)


def _embed_batches(embedder: Embedder, window: Window, batches: _SharedBatches, vectors: WindowVectors) -> None:
    # One autocast around all batches, so that weights are rounded once.
    with torch.inference_mode(), autocast(embedder.device.type, embedder.precision):
        for rows in batches:
            vectors.add(rows, embedder.embed(window.batch(rows)))


class _SharedBatches:
    """Batches that any number of threads iterate together. `advance` is called when a thread comes for its next one."""

    def __init__(self, batches: Iterator[np.ndarray], advance: Callable[[int], None]) -> None:
        self._batches = batches
        self._advance = advance
        self._lock = Lock()

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            with self._lock:
                rows = next(self._batches, None)
            if rows is None:
                return
            yield rows
            with self._lock:
                self._advance(len(rows))

    def close(self) -> None:
        """Give out no more batches: after an error or Ctrl-C each thread finishes its current batch."""
        with self._lock:
            self._batches = iter(())


@contextmanager
def _threads(device: torch.device) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield `run(work)`. On a CPU it runs `work` in as many threads as torch has, each computing by itself.

    Two batches on a core each finish sooner than one batch after the other on both cores, which wait for each other.
    """
    count = torch.get_num_threads() if device.type == "cpu" else 1
    if count == 1:
        yield lambda work: work()
        return
    with ThreadPoolExecutor(count, "embed", torch.set_num_threads, (1,)) as pool:

        def run(work: Callable[[], None]) -> None:
            futures = [pool.submit(work) for _ in range(count)]
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()

        try:
            yield run
        finally:
            torch.set_num_threads(count)  # the threads' setting also holds for threads that start later
