"""Numbers and paragraphs as the plan shows them."""

from __future__ import annotations

import math
import textwrap

__all__ = ["WIDTH", "count", "percent", "plural", "rate", "size", "small", "time", "wrapped"]

WIDTH = 100
_LABEL = 12  # columns of what stands before a paragraph


def time(seconds: float) -> str:
    """Seconds in the unit that keeps them readable: "155 s", "21 min", "9.6 h", "1,204 h"."""
    if math.isnan(seconds):
        return "?"
    for unit, name, most in ((1, "s", 180), (60, "min", 180), (3600, "h", math.inf)):
        if seconds / unit < most:
            return f"{small(seconds / unit)} {name}"
    raise AssertionError("unreachable")


def small(number: float) -> str:
    """Two digits at least, and no decimals from 10 on; 0 as a dash."""
    if number == 0:
        return "-"
    if number < 0.05:
        return "<0.1"
    return f"{number:,.1f}" if number < 10 else f"{number:,.0f}"


def count(number: float) -> str:
    """Tokens in millions or billions."""
    return f"{small(number / 1e9)} G" if number >= 1e9 else f"{small(number / 1e6)} M" if number else "-"


def size(number: float) -> str:
    """Bytes on disk or line."""
    if not number:
        return "of unknown size"
    return f"{small(number / 1e9)} GB" if number >= 1e8 else f"{small(number / 1e6)} MB"


def rate(flops: float) -> str:
    """FLOP/s."""
    return f"{flops / 1e12:,.3g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:,.0f} GFLOP/s"


def percent(share: float) -> str:
    """A share of one."""
    return f"{100 * share:.0f} %"


def plural(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def wrapped(text: str, label: str = "", indent: int = _LABEL) -> list[str]:
    """A paragraph beside its label."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=label.ljust(indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
