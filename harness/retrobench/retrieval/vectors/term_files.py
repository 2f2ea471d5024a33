"""The files of sparse rows: a part for each window, and the arrays of all windows. No array passes through memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from retrobench.retrieval.vectors.layout import HEAD, TERM_TYPES, TermPieces, Terms, header

__all__ = ["flush", "join_parts", "write_part"]

_CHUNK = 2**20  # bytes copied at a time


def write_part(path: Path, terms: Terms | TermPieces) -> None:
    """Write the sparse rows of one window: three arrays in one file, each with its header."""
    if isinstance(terms, Terms):
        terms = TermPieces(terms.indptr, [terms.indices], [terms.values])
    with path.open("wb") as file:
        _write_array(file, TERM_TYPES["indptr"], [terms.indptr])
        _write_array(file, TERM_TYPES["indices"], terms.indices)
        _write_array(file, TERM_TYPES["values"], terms.values)
        flush(file)


def _write_array(file: IO[bytes], kind: str, pieces: Sequence[np.ndarray]) -> None:
    """Write the pieces of one array, one after the other."""
    count = sum(len(piece) for piece in pieces)
    file.write(header(kind, (count,)))
    for piece in pieces:
        file.write(np.ascontiguousarray(piece, kind).data)


def join_parts(parts: Iterable[Path], folder: Path) -> None:
    """Concatenate the sparse rows of all windows, in the order of their parts."""
    counts = {"indptr": 1, "indices": 0, "values": 0}
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for name in TERM_TYPES:
            files[name] = stack.enter_context((folder / f"terms.{name}.npy").open("wb"))
            files[name].seek(HEAD)
        files["indptr"].write(np.zeros(1, TERM_TYPES["indptr"]).data)
        for path in parts:
            with path.open("rb") as part:
                indptr = np.load(part)
                ends = indptr[1:] + counts["values"]
                files["indptr"].write(ends.data)
                counts["indptr"] += len(ends)
                for name in ("indices", "values"):
                    counts[name] += _copy_array(part, files[name])
        for name, file in files.items():
            file.seek(0)
            file.write(header(TERM_TYPES[name], (counts[name],)))
            flush(file)


def _copy_array(part: IO[bytes], target: IO[bytes]) -> int:
    """Copy the numbers of the array that begins here, all of 4 bytes. Return how many they are."""
    np.lib.format.read_magic(part)
    (count,), _, _ = np.lib.format.read_array_header_1_0(part)
    left = 4 * count
    while left:
        chunk = part.read(min(left, _CHUNK))
        if not chunk:
            raise EOFError(f"{part.name} ends {left} bytes early")
        target.write(chunk)
        left -= len(chunk)
    return int(count)


def flush(file: IO[bytes]) -> None:
    """Write a file's content to the disk."""
    file.flush()
    os.fsync(file.fileno())
