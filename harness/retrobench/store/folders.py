"""
The folders of a key: the entry, `.partial`, `.old` and `.checkpoint`.

* finish               write `entry.json`, which makes a partial complete
* settle_checkpoints   remove the checkpoints of a finished stage, or keep the last
* set_aside            make room for a new entry
* remove_path          remove a file, a folder or a link
* beside               the path of another folder of the key
* free_bytes           the free space of a disk
"""

from __future__ import annotations

import shutil
from pathlib import Path

from retrobench.core import follow_umask, move, sync
from retrobench.store.entries import CHECKPOINTS, Entry, Recipe

__all__ = ["beside", "finish", "free_bytes", "remove_path", "set_aside", "settle_checkpoints"]


def finish(partial: Path, recipe: Recipe, cost: dict[str, float]) -> None:
    """Write the folder's files to the disk, then `entry.json`, which means that all of them are complete."""
    follow_umask(partial)
    # Otherwise a power cut could keep the final name and lose the files' content.
    sync(partial)
    Entry.describe(partial, recipe, cost).write(partial)


def settle_checkpoints(folder: Path, keeps: bool) -> None:
    """Remove the checkpoints of a finished stage. With `keeps`, the last one stays as `<key>.checkpoint`."""
    kept = beside(folder, "checkpoint")
    *others, last = [kept, *sorted(folder.glob(CHECKPOINTS))]
    # The last one is renamed last: a kill before the rename leaves it in the folder, for the next call.
    if last == kept and keeps:
        return
    for checkpoint in others:
        remove_path(checkpoint)
    if keeps:
        move(last, kept)
    else:
        remove_path(last)


def beside(folder: Path, suffix: str) -> Path:
    """Return the path of `<key>.<suffix>`."""
    return folder.with_name(f"{folder.name}.{suffix}")


def set_aside(folder: Path) -> None:
    """Rename an entry to `<key>.old`, in place of an earlier one."""
    if folder.exists() or folder.is_symlink():
        remove_path(beside(folder, "old"))
        move(folder, beside(folder, "old"))


def remove_path(path: Path) -> None:
    """Remove a file, a folder, or a link without its target."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def free_bytes(root: Path) -> int:
    """Return the free bytes of a disk, 0 where no further file can be opened to ask."""
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return 0
