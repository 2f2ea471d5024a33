"""A process that waits for a lock prints the holder, again and again."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from retrobench.store import locks


def test_a_wait_is_told_of_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    has_waited = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            has_waited.set()

    def hold() -> None:
        with locks.locked(tmp_path / "key.lock", "holds"):
            holds.set()
            has_waited.wait(60)

    monkeypatch.setattr(locks, "BETWEEN_LINES", 0.05)
    monkeypatch.setattr(locks, "say", say)
    holds = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(60)
    with locks.locked(tmp_path / "key.lock", "waits"):
        holder.join()
        assert len(lines) >= 3
        assert lines[0].startswith(f"waits, held by pid {os.getpid()} on ")
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]
