"""Files: hashed, and written so that a name never stands over half of one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["KEY_LENGTH", "file_hash", "sync", "tree_hash"]

KEY_LENGTH = 20  # hexadecimal digits: 80 bits, no collision within any store a disk can hold


def sync(*paths: Path) -> None:
    """Write to the disk what these files hold and which names these folders do."""
    for path in paths:
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
    """A key for source code: the names and bytes of files, and of the Python files beneath folders."""
    digest = hashlib.sha256()
    for path in sorted(Path(p) for p in paths):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(path if path.is_dir() else path.parent).as_posix()
            content = file.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:KEY_LENGTH]
