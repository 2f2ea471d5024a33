"""
The signals that end a command, and SIGUSR1, which asks a training for a checkpoint.

* handled     handle the signals while a command runs
* deferred    leave the signals to a training, which ends behind a step
* requested   return the request that all processes of an experiment agree on
* Stop        the exception by which a signal ends a command

SIGINT, SIGTERM and SIGHUP end a command at once, and a training behind its step, with a checkpoint. A signal that was
ignored at the start, as under `nohup`, stays ignored.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

from retrobench.core import processes

__all__ = ["Request", "Stop", "deferred", "handled", "requested"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONCE = 1.0  # seconds; a launcher and a terminal can both send the signal of one key press


class Stop(KeyboardInterrupt):
    """A signal ends the command. `state` says how far a training came; it is empty elsewhere."""

    def __init__(self, number: int, state: str = "") -> None:
        super().__init__(number)
        self.number = number
        self.state = state


class Request(NamedTuple):
    """The signal that ends a training, 0 for none, and whether a checkpoint is asked for."""

    stop: int
    checkpoint: bool


@dataclass
class _Arrived:
    """The signals of this process that no step has answered yet."""

    is_deferred: bool = False
    stop: int = 0
    time: float = 0.0
    checkpoint: bool = False


_arrived = _Arrived()


@contextmanager
def handled() -> Iterator[None]:
    """Handle the signals in the block. It must run in the main thread."""
    earlier = {}
    for number in (*ENDING, signal.SIGUSR1):
        if signal.getsignal(number) is not signal.SIG_IGN:
            earlier[number] = signal.signal(number, _receive)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _receive(number: int, frame: FrameType | None) -> None:
    """Keep the signal for the end of a training's step; elsewhere, and when it is repeated, raise Stop."""
    if number == signal.SIGUSR1:
        _arrived.checkpoint = _arrived.is_deferred
        return
    now = time.monotonic()
    is_repeated = bool(_arrived.stop) and now > _arrived.time + ONCE
    if not _arrived.is_deferred or is_repeated:
        raise Stop(number)
    if not _arrived.stop:
        _arrived.stop = number
        _arrived.time = now


@contextmanager
def deferred() -> Iterator[None]:
    """Keep signals in the block for `requested`. A repeated signal still raises Stop at once."""
    _arrived.stop = 0
    _arrived.checkpoint = False
    _arrived.is_deferred = True
    try:
        yield
    finally:
        _arrived.is_deferred = False
    if _arrived.stop:
        raise Stop(_arrived.stop)


def requested() -> Request:
    """Return the signals of all processes since the last call; every process must call this function together."""
    wants_checkpoint = _arrived.checkpoint
    if wants_checkpoint:
        _arrived.checkpoint = False
    stop, checkpoint = processes.largest([_arrived.stop, int(wants_checkpoint)])
    return Request(stop, bool(checkpoint))
