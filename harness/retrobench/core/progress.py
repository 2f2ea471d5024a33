"""
What the person waiting sees: one line per event, and a bar with a rate and the time left.

Everything goes to standard error, so that standard output stays what a command prints. Where that is not a
terminal (a log, a pipe) a bar becomes a plain line now and then and one at the end.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bar", "duration", "quiet_transformers", "say"]

SECONDS_BETWEEN_LINES = 10.0  # in a log


@functools.cache
def _console() -> Console:
    # One console for lines and bars alike: a line said while a bar is drawn then lands above it. Markup is
    # off because paths and settings hold brackets; no line is folded because a log is searched by line.
    from rich.console import Console

    # Of several processes at one experiment the first speaks.
    quiet = (os.environ.get("RANK") or "0") != "0"
    return Console(stderr=True, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line."""
    _console().print(text)


def quiet_transformers() -> None:
    """Keep transformers' reports and bars off standard error, for this process.

    It reports at length on heads that a checkpoint lacks or a model leaves out, and both are usual here.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def duration(seconds: float) -> str:
    """A length of time in the unit a reader would choose: `0.4 s`, `83 s`, `12 min`, `2.1 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Meter:
    """Counts units against a clock; as text, `120/200 steps, 3.4 steps/s, 24 s left`."""

    def __init__(self, total: int, unit: str, done: int) -> None:
        self.total, self.unit, self.done = total, unit, done
        self._first = done
        self._began = time.monotonic()
        self._ended: float | None = None

    def stop(self) -> None:
        self._ended = time.monotonic()

    def __str__(self) -> str:
        seconds = (self._ended or time.monotonic()) - self._began
        rate = (self.done - self._first) / seconds if seconds > 0 else 0.0
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        if self._ended is not None:
            clock = duration(seconds)
        else:
            clock = f"{duration(max(self.total - self.done, 0) / rate)} left" if rate else "? left"
        return f"{self.done:,}/{self.total:,} {self.unit}, {speed} {self.unit}/s, {clock}"


@contextmanager
def bar(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """
    Show work going on and give `advance(n)`, to be called with each `n` more units done.

    `unit` is a plural (`steps`, `passages`). `done` is what an earlier process did already: shown, and left
    out of the rate. The last line says how far it came, also after an exception.
    """
    meter = _Meter(total, unit, done)
    console = _console()
    draw = _drawn if console.is_terminal and not console.is_dumb_terminal else _written
    with draw(label, meter) as refresh:

        def advance(n: int) -> None:
            meter.done += n
            refresh()

        try:
            yield advance
        finally:
            meter.stop()


@contextmanager
def _drawn(label: str, meter: _Meter) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, Progress, TextColumn

    name = TextColumn("{task.description}", markup=False)
    with Progress(name, BarColumn(), TextColumn("{task.fields[meter]}"), console=_console()) as progress:
        task = progress.add_task(label, total=meter.total, completed=meter.done, meter=meter)
        yield lambda: progress.update(task, completed=meter.done)


@contextmanager
def _written(label: str, meter: _Meter) -> Iterator[Callable[[], None]]:
    last = time.monotonic()

    def refresh() -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{label}: {meter}")

    try:
        yield refresh
    finally:
        say(f"{label}: {meter}")
