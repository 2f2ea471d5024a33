"""
Progress on standard error: one line per event, and a bar with the rate and the remaining time.

Standard output holds only the command's result. In a log or a pipe, a bar becomes a line every few seconds and a last
line at the end.
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
    # Lines and bars share a console, so that a line appears above a bar on the screen. Markup is off because paths and
    # settings contain brackets. Lines are not folded because logs are searched by line.
    from rich.console import Console

    # Only rank 0 prints.
    quiet = (os.environ.get("RANK") or "0") != "0"
    return Console(stderr=True, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line."""
    _console().print(text)


def quiet_transformers() -> None:
    """Silence transformers' reports and bars in this process.

    It reports every head that a checkpoint lacks or a model drops. Both are usual here.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def duration(seconds: float) -> str:
    """Return a time in a readable unit: `0.4 s`, `83 s`, `12 min`, `2.1 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class _Meter:
    """Count units against a clock; as text, `120/200 steps, 3.4 steps/s, 24 s left`."""

    def __init__(self, total: int, unit: str, count: int) -> None:
        self.total = total
        self.unit = unit
        self.count = count
        self._first_count = count
        self._start = time.monotonic()
        self._end: float | None = None

    def stop(self) -> None:
        self._end = time.monotonic()

    def __str__(self) -> str:
        seconds = (self._end or time.monotonic()) - self._start
        rate = 0.0
        if seconds > 0:
            rate = (self.count - self._first_count) / seconds
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        clock = self._clock(seconds, rate)
        return f"{self.count:,}/{self.total:,} {self.unit}, {speed} {self.unit}/s, {clock}"

    def _clock(self, seconds: float, rate: float) -> str:
        """Return the elapsed time at the end, the remaining time before."""
        if self._end is not None:
            return duration(seconds)
        if not rate:
            return "? left"
        remaining = max(self.total - self.count, 0)
        return f"{duration(remaining / rate)} left"


@contextmanager
def bar(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show progress and yield `advance(n)`, which the caller calls after every `n` further units.

    `unit` is a plural (`steps`, `passages`). An earlier process finished `done` units, which the rate leaves out. The
    last line shows the final count, also after an exception.
    """
    meter = _Meter(total, unit, done)
    console = _console()
    show = _write_lines
    if console.is_terminal and not console.is_dumb_terminal:
        show = _draw_bar
    with show(label, meter) as refresh:

        def advance(n: int) -> None:
            meter.count += n
            refresh()

        try:
            yield advance
        finally:
            meter.stop()


@contextmanager
def _draw_bar(label: str, meter: _Meter) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[meter]}"),
    )
    with Progress(*columns, console=_console()) as progress:
        task = progress.add_task(label, total=meter.total, completed=meter.count, meter=meter)

        def refresh() -> None:
            progress.update(task, completed=meter.count)

        yield refresh


@contextmanager
def _write_lines(label: str, meter: _Meter) -> Iterator[Callable[[], None]]:
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
