"""
Errors for the person at the terminal.

* RetrobenchError      one line: the thing, the choices, the next step; exit code 2, no traceback
  - DivergedError      a loss left the finite numbers; carries where, and what survives

Anything else that escapes is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DivergedError", "RetrobenchError", "unknown"]


class RetrobenchError(Exception):
    """A mistake the user can mend. The message is one line and `exit_code` is what the shell sees."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DivergedError(RetrobenchError):
    """Training met a loss that is not finite."""

    exit_code = 1


def unknown(kind: str, name: str, choices: Iterable[str], next_step: str = "") -> RetrobenchError:
    """The error for a name that is not among `choices`, suggesting the nearest one."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return RetrobenchError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known) or 'none'}. {next_step}")
