"""
Hashes of files, and writes after which a file is complete or absent.

* atomic_write           replace a file's content at once.
* sync, move             write a file or a folder to the disk, then rename it.
* follow_umask           give files the mode of their folder.
* file_hash, tree_hash   hash a file's bytes; hash source code.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["KEY_LENGTH", "atomic_write", "file_hash", "follow_umask", "move", "sync", "tree_hash"]

KEY_LENGTH = 20  # hexadecimal digits: 80 bits, no collision within any store a disk can hold


def atomic_write(file: Path, content: str | bytes | Iterable[str | bytes]) -> None:
    """Replace the content of `file`. Readers of the file see the old content or the new, never a mixture.

    Chunks are written one by one, so the content may be larger than memory. Text is written as UTF-8. An exception, a
    killed process or a power cut leaves the old content. Processes that write one file take turns: all use the same
    NAME.partial, so the next process overwrites the remains of a killed one.
    """
    chunks = [content] if isinstance(content, str | bytes) else content
    partial = file.with_name(f"{file.name}.partial")
    with _open_alone(partial) as stream:
        try:
            for chunk in chunks:
                stream.write(chunk.encode() if isinstance(chunk, str) else chunk)
            stream.flush()
            os.fsync(stream.fileno())
            move(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def _open_alone(partial: Path) -> Iterator[BinaryIO]:
    """Open an empty file that no other process writes meanwhile, and wait for one that does."""
    while True:
        with partial.open("ab") as stream:
            with suppress(OSError):  # of a disk without locks
                fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                if _is_named(stream, partial):
                    stream.truncate(0)
                    yield stream
                    return
            finally:
                with suppress(OSError):  # a forked child would keep the lock
                    fcntl.flock(stream, fcntl.LOCK_UN)


def _is_named(stream: BinaryIO, path: Path) -> bool:
    """Return whether an open file still has its name: another process may have given it the final one."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def move(source: Path, target: Path) -> None:
    """Rename a file or a folder within one folder, and write the new name to the disk.

    The file `target` is replaced; a full folder `target` is an OSError. `sync` the source first: otherwise a power cut
    could keep the new name and lose the content.
    """
    os.replace(source, target)
    _flush(target.parent)


def sync(path: Path) -> None:
    """Write a file, or a folder and everything in it, to the disk."""
    if path.is_dir():
        for inner in path.rglob("*"):
            _flush(inner)
    _flush(path)


def follow_umask(folder: Path) -> None:
    """Give the files in a folder the mode that the umask gave the folder: safetensors writes for the owner alone."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


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
    """Return a hash of the names and bytes of files, and of the Python files beneath folders."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        for name, file in _named_files(path):
            content = file.read_bytes()
            header = f"{name}\0{len(content)}\0"
            digest.update(header.encode() + content)
    return digest.hexdigest()[:KEY_LENGTH]


def _named_files(path: Path) -> list[tuple[str, Path]]:
    """Return a file with its name, or the Python files beneath a folder with their paths in it, sorted."""
    if not path.is_dir():
        return [(path.name, path)]
    return [(file.relative_to(path).as_posix(), file) for file in sorted(path.rglob("*.py"))]
