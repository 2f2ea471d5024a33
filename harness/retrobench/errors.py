"""
Errors for the person at the terminal.

* RetrobenchError      a user's error: one line with the thing, the choices and the next step; exit code 2.
  - DivergedError      a non-finite loss; exit code 1.

Every other exception is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DivergedError", "RetrobenchError", "unknown"]


class RetrobenchError(Exception):
    """A mistake that the user can correct. The message is one line, and `exit_code` goes to the shell."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DivergedError(RetrobenchError):
    """Training met a non-finite loss."""

    exit_code = 1


def unknown(kind: str, name: str, choices: Iterable[str], next_step: str = "") -> RetrobenchError:
    """Return the error for a name outside `choices`. It suggests the nearest choice."""
    names = sorted(choices)
    matches = [choice for choice in names if choice.lower() == name.lower()]
    matches += difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    message = f"Unknown {kind} {name!r}."
    if matches:
        message += f" Did you mean {matches[0]!r}?"
    message += f" Known: {', '.join(names) or 'none'}. {next_step}"
    return RetrobenchError(message)
