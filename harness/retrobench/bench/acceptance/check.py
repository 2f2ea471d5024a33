"""
A check of acceptance and its result. No library is imported before a check runs.

* Check          one comparison, which returns the facts that it found
* SkippedError   raised where a machine has nothing to check
* CheckResult    the result of a check
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Check", "CheckResult", "SkippedError", "Status"]

Status = Literal["ok", "fault", "skipped", "not reached"]


class SkippedError(Exception):
    """Raised by a check that this machine has no use for; its text is the reason."""


class Check(NamedTuple):
    """One comparison. `run` returns the facts that it compared; it raises any exception for a fault."""

    case: str
    run: Callable[[], str]


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. `facts` are one line: the numbers compared, the fault or the reason."""

    check: str
    case: str
    status: Status
    facts: str = ""
    seconds: float = 0.0
