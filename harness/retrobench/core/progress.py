"""
Progress on standard error: one line per event, and a bar with the rate and the remaining time.

Standard output holds only the command's result. In a log or a pipe, a bar becomes a line a minute. Every bar that was
not short leaves a last line.

* say             print a line, and with `-v` a longer one
* bar             show progress
* set_position    name the run and the stage in front of each bar
* set_verbosity   0 prints nothing, 1 lines and bars, 2 explanations too
* silence         prints no line in a block
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from retrobench.errors import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Position", "bar", "duration", "quiet_transformers", "say", "set_position", "set_verbosity", "silence"]

SECONDS_BETWEEN_LINES = 60.0  # in a log
SHORT = 2.0  # seconds; a shorter bar leaves no line
QUIET, NORMAL, VERBOSE = 0, 1, 2

_verbosity = NORMAL


def set_verbosity(verbosity: int) -> None:
    """Print nothing with 0, lines and bars with 1, explanations too with 2, in this process."""
    global _verbosity
    _verbosity = verbosity


@contextmanager
def silence() -> Iterator[None]:
    """Print no line in the block."""
    earlier = _verbosity
    set_verbosity(QUIET)
    try:
        yield
    finally:
        set_verbosity(earlier)


class Position(NamedTuple):
    """The position of a stage in a command: run and stage, counted from 1, and the time of all stages behind it."""

    run: int
    runs: int
    stage: int
    stages: int  # of the run
    seconds_after: float | None  # None where it is not known yet

    def __str__(self) -> str:
        return f"run {self.run} of {self.runs}, stage {self.stage} of {self.stages}"


_position: Position | None = None


def set_position(position: Position | None) -> None:
    """Name the run and the stage in front of each bar in this process, until None is set."""
    global _position
    _position = position


class Advance(Protocol):
    """The function that a bar yields."""

    def __call__(self, n: int, facts: str = "") -> None: ...


@functools.cache
def _console() -> Console:
    # Lines and bars share a console, so that a line appears above a bar on the screen. Markup is off because paths and
    # settings contain brackets. Lines are not folded because logs are searched by line.
    from rich.console import Console

    # Only rank 0 prints.
    quiet = (os.environ.get("RANK") or "0") != "0"
    return Console(stderr=True, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(text: str, explained: str = "") -> None:
    """Print one line, and where `-v` asks for more the explained line in its place. An empty line is not printed."""
    line = text
    if explained and _verbosity >= VERBOSE:
        line = explained
    if line and _verbosity >= NORMAL:
        _console().print(printable(line))


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
    """Count units against a clock; as text, `120/200 steps, 3.4 steps/s, 24 s left, about 2.1 h in all, loss 5.31`."""

    def __init__(self, total: int, unit: str, count: int) -> None:
        self.total = total
        self.unit = unit
        self.count = count
        self.facts = ""
        self._seconds_after = None if _position is None else _position.seconds_after
        self._first_count = count
        self._start = time.monotonic()
        self._end: float | None = None

    def stop(self) -> None:
        self._end = time.monotonic()

    @property
    def seconds(self) -> float:
        return (self._end or time.monotonic()) - self._start

    def __str__(self) -> str:
        seconds = self.seconds
        rate = 0.0
        if seconds > 0:
            rate = (self.count - self._first_count) / seconds
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        clock = self._clock(seconds, rate)
        facts = f", {self.facts}" if self.facts else ""
        return f"{self.count:,}/{self.total:,} {self.unit}, {speed} {self.unit}/s, {clock}{facts}"

    def _clock(self, seconds: float, rate: float) -> str:
        """Return the elapsed time at the end, the remaining time before, and the remaining time of the command."""
        left = 0.0
        clock = duration(seconds)
        if self._end is None:
            if not rate:
                return "? left"
            left = max(self.total - self.count, 0) / rate
            clock = f"{duration(left)} left"
        if not self._seconds_after:  # unknown, or the last stage
            return clock
        return f"{clock}, about {duration(left + self._seconds_after)} left in all"


@contextmanager
def bar(label: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Show progress and yield `advance(n, facts)`, which the caller calls after every `n` further units.

    `facts`, such as a loss, stand behind the count until the next facts.
    `unit` is a plural (`steps`, `passages`). An earlier process finished `done` units, which the rate leaves out. The
    last line shows the final count, also after an exception.
    """
    name = label if _position is None else f"{_position}: {label}"
    meter = _Meter(total, unit, done)
    console = _console()
    show = _write_lines
    if console.is_terminal and not console.is_dumb_terminal and _verbosity >= NORMAL:
        show = _draw_bar
    try:
        with show(name, meter) as refresh:

            def advance(n: int, facts: str = "") -> None:
                meter.count += n
                meter.facts = facts or meter.facts
                refresh()

            yield advance
    finally:
        meter.stop()
        if meter.seconds >= SHORT or _verbosity >= VERBOSE:
            say(f"{name}: {meter}")


@contextmanager
def _draw_bar(name: str, meter: _Meter) -> Iterator[Callable[[], None]]:
    """Draw the name with a bar, and below it the meter, which is too wide to stand beside them."""
    from rich.console import Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def render() -> RenderableType:
        first_line = Table.grid(padding=(0, 1))
        first_line.add_row(Text(name, no_wrap=True, overflow="ellipsis"), ProgressBar(meter.total, meter.count, 40))
        return Group(first_line, Text(str(meter), no_wrap=True, overflow="ellipsis"))

    # Ten times a second; a step on a GPU is too short to draw at each.
    with Live(get_renderable=render, console=_console(), refresh_per_second=10, transient=True):
        yield _do_nothing


def _do_nothing() -> None:
    """Leave the drawing to the clock."""


@contextmanager
def _write_lines(name: str, meter: _Meter) -> Iterator[Callable[[], None]]:
    last = time.monotonic()

    def refresh() -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{name}: {meter}")

    yield refresh
