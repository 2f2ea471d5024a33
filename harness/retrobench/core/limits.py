"""
Limits of the machine and of the process: a full disk, a quota, the size of a file, open files, memory.

* describe_limit   the limit behind an exception, and the step that mends it

safetensors, NumPy, Arrow and torch give some limits as texts of other exceptions.
"""

from __future__ import annotations

import errno
import os

__all__ = ["describe_limit"]

LIMITS = {
    errno.ENOSPC: ("The disk is full", "Free space there"),
    errno.EDQUOT: ("The disk quota is used up", "Free space there"),
    errno.EFBIG: ("A file is larger than this process may write", "Raise `ulimit -f`"),
    errno.EMFILE: ("Too many files are open", "Raise `ulimit -n`"),
    errno.ENFILE: ("Too many files are open on this machine", "End other programs"),
    errno.ENOMEM: ("The memory does not suffice", "Free memory, or raise `ulimit -v`"),
}
NO_MEMORY = ("can't allocate memory", "not enough memory", "failed to allocate", "malloc of size", "bad_alloc")


def describe_limit(error: BaseException) -> tuple[str, str] | None:
    """Return the limit behind an exception and the step that mends it; None for any other exception."""
    if isinstance(error, MemoryError):
        return LIMITS[errno.ENOMEM]
    if isinstance(error, OSError) and error.errno in LIMITS:
        return LIMITS[error.errno]
    text = str(error)
    for number, limit in LIMITS.items():
        if os.strerror(number) in text:
            return limit
    if isinstance(error, RuntimeError | OSError) and any(words in text for words in NO_MEMORY):
        return LIMITS[errno.ENOMEM]
    return describe_limit(error.__cause__) if error.__cause__ else None
