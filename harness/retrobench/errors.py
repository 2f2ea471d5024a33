"""
Errors for the person at the terminal.

* RetrobenchError      a user's error: one line with the thing, the choices and the next step; exit code 2.
  - DivergedError      a non-finite loss; exit code 1.
* quote                a value of the input, for an error.
* clip                 a text of the input, for an error.
* printable            a text without characters that steer a terminal.

Every other exception is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["DivergedError", "RetrobenchError", "clip", "printable", "quote", "unknown"]

LONGEST_QUOTE = 200  # characters of the input in an error

# Control characters, lone surrogates, and the signs that reverse or break a line on a screen.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return a text with escapes such as `\\u001b` in place of control characters. Tabs and line ends stay.

    JSON has the same escapes, so a printable JSON text is the same document.
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def quote(value: object) -> str:
    """Return the repr of a value of the input, cut to 200 characters."""
    try:
        return clip(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits, or deep nesting
        return f"a {type(value).__name__} too large to show"


def clip(text: object) -> str:
    """Return a text, or the message of another library's exception, cut to 200 characters."""
    message = str(text)
    if len(message) > LONGEST_QUOTE:
        message = f"{message[: LONGEST_QUOTE - 4]} ..."
    return message


def _cut_word(word: str) -> str:
    """Cut a long word of the input that nobody has cut before. A path stays whole."""
    return word if "/" in word else clip(word)


class RetrobenchError(Exception):
    """A mistake that the user can correct. The message is one line, and `exit_code` goes to the shell."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(map(_cut_word, message.split()))))


class DivergedError(RetrobenchError):
    """Training met a non-finite loss."""

    exit_code = 1


def unknown(kind: str, name: str, choices: Iterable[str], next_step: str = "") -> RetrobenchError:
    """Return the error for a name outside `choices`. It suggests the nearest choice."""
    names = sorted(choices)
    matches = [choice for choice in names if choice.lower() == name.lower()]
    matches += difflib.get_close_matches(name[:LONGEST_QUOTE], names, n=1, cutoff=0.5)
    message = f"Unknown {kind} {quote(name)}."
    if matches:
        message += f" Did you mean {matches[0]!r}?"
    message += f" Known: {', '.join(names) or 'none'}. {next_step}"
    return RetrobenchError(message)
