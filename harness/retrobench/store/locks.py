"""The lock of a key. It names its holder, so that a process that waits can say for whom."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from retrobench.core import say

__all__ = ["locked"]

BETWEEN_LINES = 60.0  # seconds between two lines of a process that waits


@contextmanager
def locked(file: Path, waits: str) -> Iterator[None]:
    """Hold the lock `file`. The kernel releases it when the process ends for any reason.

    A process that waits prints the line `waits` with the holder at once, and then every minute.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(file)
    holder = file.with_suffix(".holder")  # not the lock itself, which filelock empties
    seconds = 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            say(f"{waits}, held by {_read_holder(holder)}")
            seconds = BETWEEN_LINES
    try:
        since = datetime.now().astimezone().isoformat(" ", timespec="seconds")
        note = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        with suppress(OSError):  # a full disk is told of where the work is lost
            holder.write_text(json.dumps(note), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _read_holder(file: Path) -> str:
    """Describe the process that holds a lock."""
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        text = f"pid {note['pid']} on {note['host']} since {note['since']}"
        if note["host"] == socket.gethostname() and _is_stopped(note["pid"]):
            text += f", which is stopped: `kill -CONT {note['pid']}` lets it go on"
    except (OSError, ValueError, LookupError):
        return "a process that left no note"
    return text


def _is_stopped(pid: int) -> bool:
    """Tell whether a process of this machine is stopped by a signal or a debugger. Only Linux tells."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    state = status.rpartition(")")[2].split()[0]
    return state in ("T", "t")
