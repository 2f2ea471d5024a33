"""
The ranks of an experiment watch each other, so that no rank waits for one that is stopped or never comes.

* await_ranks   wait until all ranks are there, then watch them in the background
* leave         tell the other ranks that this one has finished
* patience      return the seconds after which a silent rank ends the others

A thread of each rank counts up a number in torch's TCPStore, and reads the others' numbers. A rank may be busy for
hours in its main thread, and its number still counts up. The number of a stopped or dead process does not.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
from contextlib import suppress
from datetime import timedelta
from threading import Event, Thread
from typing import Any

from retrobench.errors import RetrobenchError

__all__ = ["await_ranks", "leave", "patience"]

PATIENCE = 600.0  # seconds; RETROBENCH_PATIENCE overrules it
LEFT = "left"

_watching: list[_Watch] = []


def patience() -> float:
    """Return the seconds after which a rank that is silent, or has not come, ends the others."""
    return float(os.environ.get("RETROBENCH_PATIENCE") or PATIENCE)


def await_ranks(rank: int, size: int, command: str) -> None:
    """Wait until all ranks are there, then watch them. RetrobenchError names the ranks that do not come."""
    if _watching:
        return
    watch = _Watch(rank, size, command)
    watch.await_others()
    watch.start()
    _watching.append(watch)


def leave() -> None:
    """Tell the other ranks that this rank has finished its work and need not answer any more."""
    for watch in _watching:
        watch.leave()


class _Watch:
    """Counts for this rank, and ends the process where another rank is silent.

    One thread talks to the store, and another looks at the clock: torch's store has no timeout where its server is
    stopped.
    """

    def __init__(self, rank: int, size: int, command: str) -> None:
        self.rank = rank
        self.size = size
        self.command = command
        self.patience = patience()
        self.pause = min(10.0, self.patience / 6)  # seconds between two answers
        self.count = 0
        self.has_left = Event()
        self.are_here = Event()  # all ranks
        self.texts = {other: "" for other in range(size) if other != rank}  # the last answer of each other rank
        self.times = dict.fromkeys(self.texts, time.monotonic())  # of each rank's last change
        self.talked = time.monotonic()
        self.store: Any = None
        self.talker = Thread(target=self._talk, name="watch-talk", daemon=True)

    def await_others(self) -> None:
        """Wait until all ranks are there. RetrobenchError names the others."""
        self.talker.start()
        atexit.register(self._stop)  # Python aborts where it ends while a thread is in torch
        if self.are_here.wait(self.patience):
            return
        missing = [other for other, text in self.texts.items() if not text]
        if self.store is None:
            missing = [0]  # holds the store
        names = ", ".join(map(str, missing))
        raise RetrobenchError(
            f"Rank {names} of {self.size} did not come within {self.patience:g} seconds. "
            f"Start all processes together: {self.command}"
        )

    def start(self) -> None:
        """Look at the clock from now on."""
        Thread(target=self._look, name="watch-look", daemon=True).start()

    def leave(self) -> None:
        """Answer for the last time."""
        self._stop()
        with suppress(RuntimeError):
            if self.store is not None:
                self.store.set(_key(self.rank), LEFT)

    def _stop(self) -> None:
        """Answer no more."""
        self.has_left.set()
        self.talker.join(self.patience)

    def _talk(self) -> None:
        """Answer, and read the others' answers, until this rank leaves."""
        pause = 0.05
        while not self.has_left.wait(pause):
            try:
                self._exchange()
            except RuntimeError:  # rank 0 keeps the server
                if self.rank:
                    self.store = None
            if self.are_here.is_set():
                pause = self.pause

    def _exchange(self) -> None:
        if self.store is None:
            self.store = self._connect()
        self.count += 1
        self.store.set(_key(self.rank), f"pid {os.getpid()} on {socket.gethostname()}, answer {self.count}")
        for other in self.texts:
            if not self.store.check([_key(other)]):
                continue
            text = self.store.get(_key(other)).decode()
            if text != self.texts[other] or text == LEFT:
                self.texts[other] = text
                self.times[other] = time.monotonic()
        self.talked = time.monotonic()
        if all(self.texts.values()):
            self.are_here.set()

    def _connect(self) -> Any:
        """Return a client of torchrun's store, or of rank 0's, which holds the server too."""
        from torch import distributed

        return distributed.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=self.rank == 0 and not _has_launcher(),
            timeout=timedelta(seconds=self.pause),
            wait_for_workers=False,
            multi_tenant=True,
        )

    def _look(self) -> None:
        """End this process where another rank, or the store, is silent."""
        last = time.monotonic()
        while True:
            time.sleep(self.pause)
            now = time.monotonic()
            if now - last > self.patience / 2:  # this process was stopped, perhaps with all others
                self.times = dict.fromkeys(self.texts, now)
                self.talked = now
            last = now
            if now - self.talked > self.patience:
                self._end("torchrun" if _has_launcher() else self._name(0))
            for other, changed in self.times.items():
                if now - changed > self.patience + self.pause:  # the store comes first
                    self._end(self._name(other))

    def _name(self, other: int) -> str:
        process = self.texts[other].partition(", ")[0] or "unknown"
        return f"Rank {other} of {self.size} ({process})"

    def _end(self, silent: str) -> None:
        """End this process: its main thread waits in a call that nothing else ends. The kernel frees its locks."""
        reason = f"has not answered for {self.patience:g} seconds: it is stopped, or its machine is gone"
        print(f"Error: {silent} {reason}. End it, then resume: {self.command}", file=sys.stderr, flush=True)
        os._exit(1)


def _has_launcher() -> bool:
    """Tell whether torchrun holds the store; otherwise rank 0 does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _key(rank: int) -> str:
    return f"retrobench/{rank}"
