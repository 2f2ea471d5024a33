"""
Files: hashed, and written so that no half-written file stands under a final name.

* atomic_write           replace a file's content, all at once
* sync, move             write a file or a folder to the disk, then give it its final name
* file_hash, tree_hash   the hash of one file's bytes; a key for source code
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["KEY_LENGTH", "atomic_write", "file_hash", "move", "sync", "tree_hash"]

KEY_LENGTH = 20  # hexadecimal digits: 80 bits, no collision within any store a disk can hold


def atomic_write(file: Path, content: str | bytes | Iterable[str | bytes]) -> None:
    """Replace the content of `file`: whoever opens the name reads the old content or the new, never a part of it.

    Chunks are written as they come, so the content may be larger than memory. Text is written as UTF-8. After an
    exception, the killing of the process or a power cut the old content stands. Only one process at a time may write
    a file: all of them use the same NAME.partial, so that a killed process leaves nothing the next one would keep.
    """
    chunks = [content] if isinstance(content, str | bytes) else content
    aside = file.with_name(f"{file.name}.partial")
    try:
        with aside.open("wb") as stream:
            for chunk in chunks:
                stream.write(chunk.encode() if isinstance(chunk, str) else chunk)
            stream.flush()
            os.fsync(stream.fileno())
        move(aside, file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def move(source: Path, target: Path) -> None:
    """Rename a file or a folder within one folder, and write the new name to the disk.

    A file called `target` is replaced. A full folder of that name is an OSError. `sync` the source first: otherwise a
    power cut could keep the new name and lose the bytes behind it.
    """
    os.replace(source, target)
    _flush(target.parent)


def sync(path: Path) -> None:
    """Write a file, or a folder and everything in it, to the disk."""
    if path.is_dir():
        for inner in path.rglob("*"):
            _flush(inner)
    _flush(path)


def _flush(path: Path) -> None:
    """Write the bytes of one file, or the names in one folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(file: Path, algorithm: str = "sha256") -> str:
    """Return the hash of a file's bytes in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def tree_hash(paths: Iterable[Path]) -> str:
    """Return a key for source code: the names and bytes of files, and of the Python files beneath folders."""
    digest = hashlib.sha256()
    for path in sorted(Path(p) for p in paths):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(path if path.is_dir() else path.parent).as_posix()
            content = file.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:KEY_LENGTH]
