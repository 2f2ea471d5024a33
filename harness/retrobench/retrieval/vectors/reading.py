"""Read vectors from disk, a few rows at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrobench.errors import RetrobenchError
from retrobench.retrieval.vectors.layout import DTYPES, FORMAT, HEAD, TERM_TYPES, Terms, header, widened

__all__ = ["Raw", "Vectors"]

_FACTS = {"format": str, "rows": int, "width": int, "words": int, "dtype": str}


class Raw(NamedTuple):
    """The stored bits of the dense part, for an engine that reads them itself."""

    path: Path
    dtype: str  # a key of DTYPES
    offset: int  # bytes before the first row
    shape: tuple[int, int]


@dataclass(frozen=True)
class Vectors:
    """The vectors in a folder. `ids` [N] are in memory, the rows are not."""

    folder: Path
    manifest: Mapping[str, Any]
    ids: list[str]

    @classmethod
    def open(cls, folder: Path) -> Vectors:
        """Open a folder. RetrobenchError if it holds no vectors, or if its files do not fit together."""
        manifest = _manifest(folder)
        ids = _ids(folder)
        rows, width = manifest["rows"], manifest["width"]
        if len(ids) != rows:
            raise _unusable(folder, f"it holds {len(ids):,} ids for {rows:,} rows")
        if width:
            kind = DTYPES[manifest["dtype"]]
            _check_array(folder / "dense.npy", kind, (rows, width))
        if manifest["words"]:
            _check_terms(folder, rows)
        return cls(folder, manifest, ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """d, or 0 without a dense part."""
        return int(self.manifest["width"])

    @property
    def words(self) -> int:
        """V, or 0 without terms."""
        return int(self.manifest["words"])

    @property
    def dtype(self) -> str:
        """The stored type of the dense part, a key of DTYPES."""
        return str(self.manifest["dtype"])

    @property
    def raw(self) -> Raw:
        """The file of the dense part."""
        return Raw(self.folder / "dense.npy", self.dtype, HEAD, (len(self), self.width))

    def dense(self, first: int, last: int) -> np.ndarray:
        """Return the dense rows `first` to `last`, [n, d] float32."""
        count = max(0, min(last, len(self)) - first)
        kind = DTYPES[self.dtype]
        stored = _read(self.folder / "dense.npy", kind, first * self.width, count * self.width)
        return widened(stored, self.dtype).reshape(count, self.width)

    def terms(self, first: int, last: int) -> Terms:
        """Return the sparse rows `first` to `last`; their `indptr` begins at 0."""
        count = max(0, min(last, len(self)) - first)
        indptr = self._read_terms("indptr", first, count + 1)
        start = int(indptr[0])
        entries = int(indptr[-1]) - start
        indices = self._read_terms("indices", start, entries)
        values = self._read_terms("values", start, entries)
        return Terms(indptr - start, indices, values)

    def _read_terms(self, name: str, first: int, count: int) -> np.ndarray:
        return _read(self.folder / f"terms.{name}.npy", TERM_TYPES[name], first, count)


def _read(file: Path, kind: str, first: int, count: int) -> np.ndarray:
    """Return `count` numbers of an array's file. A plain read: mapped pages would count as this process's memory."""
    offset = HEAD + first * np.dtype(kind).itemsize
    return np.fromfile(file, kind, count, offset=offset)


def _check_terms(folder: Path, rows: int) -> None:
    indptr = folder / "terms.indptr.npy"
    _check_array(indptr, TERM_TYPES["indptr"], (rows + 1,))
    last = _read(indptr, TERM_TYPES["indptr"], rows, 1)
    entries = int(last[0])
    for name in ("indices", "values"):
        _check_array(folder / f"terms.{name}.npy", TERM_TYPES[name], (entries,))


def _check_array(file: Path, kind: str, shape: tuple[int, ...]) -> None:
    size = HEAD + math.prod(shape) * np.dtype(kind).itemsize
    try:
        with file.open("rb") as content:
            head = content.read(HEAD)
            file_size = os.fstat(content.fileno()).st_size
    except OSError as error:
        raise _unusable(file.parent, f"its {file.name} cannot be read ({error.strerror})") from error
    if head != header(kind, shape) or file_size != size:
        raise _unusable(file.parent, f"its {file.name} is not the array {list(shape)} that manifest.json names")


def _ids(folder: Path) -> list[str]:
    try:
        ids: list[str] = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(folder, f"its ids.json cannot be read ({error})") from error
    return ids


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(folder, "it has no manifest.json that can be read") from error
    if not _is_valid(manifest):
        raise _unusable(folder, f"its manifest.json is not of the format {FORMAT!r}")
    return dict(manifest)


def _is_valid(manifest: Any) -> bool:
    if not isinstance(manifest, dict):
        return False
    for name, kind in _FACTS.items():
        if type(manifest.get(name)) is not kind:
            return False
    return manifest["format"] == FORMAT and manifest["dtype"] in DTYPES


def _unusable(folder: Path, reason: str) -> RetrobenchError:
    return RetrobenchError(f"The vectors in {folder} cannot be used: {reason}. Encode the texts again.")
