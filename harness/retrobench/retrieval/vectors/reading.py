"""Vectors read back, a few rows at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrobench.errors import RetrobenchError
from retrobench.retrieval.vectors.layout import DTYPES, FORMAT, HEAD, PARTS, Terms, header, widened

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
    """Rows of a folder. Nothing of them is held in memory; `ids` [N] are."""

    folder: Path
    manifest: Mapping[str, Any]
    ids: list[str]

    @classmethod
    def open(cls, folder: Path) -> Vectors:
        """RetrobenchError where the folder is not one of vectors, or its files do not fit together."""
        manifest = _manifest(folder)
        try:
            ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _unusable(folder, f"its ids.json cannot be read ({error})") from error
        rows, width = manifest["rows"], manifest["width"]
        if len(ids) != rows:
            raise _unusable(folder, f"it holds {len(ids):,} ids for {rows:,} rows")
        if width:
            _check_array(folder / "dense.npy", DTYPES[manifest["dtype"]], (rows, width))
        if manifest["words"]:
            _check_array(folder / "terms.indptr.npy", "<i8", (rows + 1,))
            entries = int(_read(folder / "terms.indptr.npy", "<i8", rows, 1)[0])
            for part in ("indices", "values"):
                _check_array(folder / f"terms.{part}.npy", PARTS[part], (entries,))
        return cls(folder, manifest, ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """d, 0 where there is no dense part."""
        return int(self.manifest["width"])

    @property
    def words(self) -> int:
        """V, 0 where there are no terms."""
        return int(self.manifest["words"])

    @property
    def dtype(self) -> str:
        """How the dense part is stored, a key of DTYPES."""
        return str(self.manifest["dtype"])

    @property
    def raw(self) -> Raw:
        return Raw(self.folder / "dense.npy", self.dtype, HEAD, (len(self), self.width))

    def dense(self, first: int, last: int) -> np.ndarray:
        """Rows `first` to `last`, [n, d] float32, whatever they are stored as."""
        count = max(0, min(last, len(self)) - first)
        stored = _read(self.raw.path, DTYPES[self.dtype], first * self.width, count * self.width)
        return widened(stored, self.dtype).reshape(count, self.width)

    def terms(self, first: int, last: int) -> Terms:
        """Rows `first` to `last` as sparse rows of their own, counted from 0."""
        count = max(0, min(last, len(self)) - first)
        indptr = _read(self.folder / "terms.indptr.npy", "<i8", first, count + 1)
        start, entries = int(indptr[0]), int(indptr[-1] - indptr[0])
        rest = (_read(self.folder / f"terms.{part}.npy", PARTS[part], start, entries) for part in ("indices", "values"))
        return Terms(indptr - start, *rest)


def _read(file: Path, kind: str, first: int, count: int) -> np.ndarray:
    """Some numbers of an array's file, by a plain read: what a mapped file held would count as this process's."""
    return np.fromfile(file, kind, count, offset=HEAD + first * np.dtype(kind).itemsize)


def _check_array(file: Path, kind: str, shape: tuple[int, ...]) -> None:
    size = HEAD + int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    try:
        with file.open("rb") as content:
            head, found = content.read(HEAD), os.fstat(content.fileno()).st_size
    except OSError as error:
        raise _unusable(file.parent, f"its {file.name} cannot be read ({error.strerror})") from error
    if head != header(kind, shape) or found != size:
        raise _unusable(file.parent, f"its {file.name} is not the array {list(shape)} that manifest.json speaks of")


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(folder, "it has no manifest.json that can be read") from error
    sound = isinstance(found, dict) and all(type(found.get(name)) is kind for name, kind in _FACTS.items())
    if not sound or found["format"] != FORMAT or found["dtype"] not in DTYPES:
        raise _unusable(folder, f"its manifest.json is not of the format {FORMAT!r}")
    return dict(found)


def _unusable(folder: Path, why: str) -> RetrobenchError:
    return RetrobenchError(f"The vectors in {folder} cannot be used: {why}. Encode the texts again.")
