"""Memory that is a process's own: pages of mapped files are the system's to take back, and do not count."""

from __future__ import annotations

import threading
from pathlib import Path

__all__ = ["Watch", "anonymous"]

SECONDS = 0.005  # between two looks


class Watch:
    """The most anonymous memory of this process while it lasts."""

    def __init__(self) -> None:
        self.peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self.peak = anonymous()  # what is over before the first look counts too
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._ended.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous())

    def _look(self) -> None:
        while not self._ended.wait(SECONDS):
            self.peak = max(self.peak, anonymous())


def anonymous() -> int:
    """Bytes of this process's anonymous memory that are resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
