"""Format numbers and paragraphs of the plan."""

from __future__ import annotations

import math
import textwrap

from retrobench.core import width_for

__all__ = [
    "WIDTH",
    "format_bytes",
    "format_count",
    "format_number",
    "format_percent",
    "format_plural",
    "format_rate",
    "format_time",
    "wrap",
]

WIDTH = 100
_LABEL_WIDTH = 12


def format_time(seconds: float) -> str:
    """Return seconds in a readable unit: "155 s", "21 min", "9.6 h", "1,204 h"."""
    if math.isnan(seconds):
        return "?"
    if seconds < 180:
        return f"{format_number(seconds)} s"
    minutes = seconds / 60
    if minutes < 180:
        return f"{format_number(minutes)} min"
    return f"{format_number(seconds / 3600)} h"


def format_number(number: float) -> str:
    """Return at least two digits, without decimals from 10 on; 0 is a dash."""
    if number == 0:
        return "-"
    if number < 0.05:
        return "<0.1"
    if number < 10:
        return f"{number:,.1f}"
    return f"{number:,.0f}"


def format_count(tokens: float) -> str:
    """Return a number of tokens in millions or billions; 0 is a dash."""
    if tokens == 0:
        return "-"
    if tokens >= 1e9:
        return f"{format_number(tokens / 1e9)} G"
    return f"{format_number(tokens / 1e6)} M"


def format_bytes(size: float) -> str:
    """Return a size on disk or of a download; 0 is an unknown size."""
    if size == 0:
        return "of unknown size"
    if size >= 1e8:
        return f"{format_number(size / 1e9)} GB"
    return f"{format_number(size / 1e6)} MB"


def format_rate(flops: float) -> str:
    """Return FLOP/s in a readable unit."""
    if flops >= 1e12:
        return f"{flops / 1e12:,.3g} TFLOP/s"
    return f"{flops / 1e9:,.0f} GFLOP/s"


def format_percent(share: float) -> str:
    """Return a share of 1 in percent."""
    return f"{100 * share:.0f} %"


def format_plural(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an "s" unless the number is 1."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}s"


def wrap(text: str, label: str = "", indent: int = _LABEL_WIDTH) -> list[str]:
    """Return the lines of a paragraph beside its label."""
    return textwrap.wrap(
        text,
        width_for(WIDTH),
        initial_indent=label.ljust(indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
