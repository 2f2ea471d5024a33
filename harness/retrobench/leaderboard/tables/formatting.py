"""
Values as text in the cells and sentences of a page.

* spread            a mean with its deviation
* signed            a number with its sign
* format_interval   an interval
* format_number     a number, or "-"
* clock             seconds as h:mm:ss
* list_facts        facts in one line
* shell_block       commands in Markdown
* one_line          a text as one printable line
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retrobench.errors import printable

__all__ = ["clock", "format_interval", "format_number", "list_facts", "one_line", "shell_block", "signed", "spread"]


def clock(seconds: float | None) -> str:
    """Return a duration as h:mm:ss, "-" for None."""
    if seconds is None:
        return "-"
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{remainder:02}"


def spread(mean: float | None, deviation: float | None) -> str:
    """Return a mean and its deviation with 4 decimals, "-" for None."""
    if mean is None:
        return "-"
    return f"{mean:.4f} ± {format_number(deviation, '.4f')}"


def format_number(value: float | None, spec: str) -> str:
    """Return a number in the format `spec`, "-" for None."""
    if value is None:
        return "-"
    return format(value, spec)


def list_facts(facts: Mapping[str, Any]) -> str:
    """Return names and values in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def shell_block(commands: Iterable[str]) -> str:
    """Return commands as a block of Markdown, which no command can end."""
    lines = [one_line(command) for command in commands]
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return "\n".join([f"{fence}sh", *lines, fence])


def one_line(text: str) -> str:
    """Return a text as one printable line."""
    return " ".join(printable(text).split("\n"))


def signed(number: float) -> str:
    """Return a number with its sign and 4 decimals."""
    return f"{round(number, 4) + 0.0:+.4f}"  # the sum turns -0.0 into 0.0


def format_interval(interval: Sequence[float] | None) -> str:
    """Return an interval with signs and 4 decimals, "-" for None."""
    if interval is None:
        return "-"
    low, high = interval
    return f"[{signed(low)}, {signed(high)}]"
