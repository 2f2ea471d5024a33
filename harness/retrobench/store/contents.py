"""
What lies in a store: finished entries, partials, remains and locks.

* Item         one of them, with its size
* list_items   all items of a store
* remove       remove an item, unless a process works on its key
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrobench.core import KEY_LENGTH
from retrobench.store.entries import Entry
from retrobench.store.folders import remove_path

__all__ = ["Item", "list_items", "remove"]

Kind = Literal["entry", "checkpoint", "partial", "old", "lock"]
SUFFIXES: dict[str, Kind] = {
    "": "entry",
    ".checkpoint": "checkpoint",
    ".partial": "partial",
    ".old": "old",
    ".lock": "lock",
    ".holder": "lock",
}


@dataclass(frozen=True)
class Item:
    """An entry, its last checkpoint, the partial of unfinished work, the remains of a replaced entry, or a lock."""

    kind: Kind
    stage: str
    path: Path
    bytes: int
    entry: Entry | None = None  # None for all but a readable entry

    @property
    def name(self) -> str:
        """Return STAGE/KEY, with the suffix of all but an entry."""
        return f"{self.stage}/{self.path.name}"


def list_items(root: Path) -> list[Item]:
    """Return the items of the store at `root`, by stage and name. Files of other names are left out."""
    items = []
    for path in sorted(root.glob("*/*")):
        if len(path.stem) != KEY_LENGTH or path.suffix not in SUFFIXES:
            continue
        kind = SUFFIXES[path.suffix]
        if kind == "lock" or path.is_dir() or path.is_symlink():
            entry = Entry.read(path) if kind == "entry" else None
            items.append(Item(kind, path.parent.name, path, _size(path), entry))
    return items


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder; 0 for a link, whose target is elsewhere."""
    if path.is_symlink():
        return 0
    return sum(file.lstat().st_size for file in (path, *_files_below(path)) if not file.is_dir())


def _files_below(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)


def remove(item: Item) -> bool:
    """Remove an item, and tell whether it is gone. An item stays where another process holds the lock of its key.

    A link is removed, and never its target.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(item.path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        remove_path(item.path)
        item.path.with_suffix(".lock").unlink(missing_ok=True)  # taken above, so nobody works behind it
    finally:
        lock.release()
    return True
