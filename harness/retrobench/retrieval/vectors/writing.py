"""Write vectors window by window."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrobench.core import atomic_write
from retrobench.errors import RetrobenchError
from retrobench.retrieval.vectors.layout import DTYPES, FORMAT, HEAD, TermPieces, Terms, header, narrowed, widened
from retrobench.retrieval.vectors.term_files import flush, join_parts, write_part

__all__ = ["Writer"]

_PLAN, _DONE = "plan.json", "windows.done"
_WAIT = 0.05  # seconds between two looks at the windows of other processes


class Writer:
    """Write the rows of a collection to a folder of their own, by windows. Window w begins at row `w * window`.

    Any number of processes may write with equal arguments. `windows` gives each of them windows that are neither
    finished nor claimed. A finished window survives the end of its process. All writes are plain ones, so that a full
    disk is an OSError. `facts` go into the manifest.
    """

    def __init__(
        self,
        folder: Path,
        rows: int,
        width: int = 0,
        words: int = 0,
        dtype: str = "float32",
        window: int = 8192,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.rows = rows
        self.width = width
        self.words = words
        self.dtype = dtype
        self.window = window
        self.count = -(-rows // window)
        self._claimed = set[int]()  # this process's windows that are not finished
        self._manifest = self._manifest_text(facts or {})
        self._done = os.open(folder / _DONE, os.O_RDWR | os.O_CREAT, 0o666)
        # A process may be killed after it published and before its caller renamed the folder.
        self.complete = _text(folder / "manifest.json") == self._manifest
        with self._locked(self.count):  # the first process prepares the folder for all
            if not self.complete and _text(folder / _PLAN) != self._manifest:
                self._prepare()

    def _manifest_text(self, facts: Mapping[str, Any]) -> str:
        manifest = {
            "format": FORMAT,
            "rows": self.rows,
            "width": self.width,
            "words": self.words,
            "dtype": self.dtype,
            "first": 0,
            "last": self.rows,
            "windows": self.window,
        }
        clashes = [name for name, value in manifest.items() if facts.get(name, value) != value]
        if clashes:
            raise ValueError(f"facts contradict the manifest: {', '.join(clashes)}")
        return json.dumps({**manifest, **facts}, indent=1) + "\n"

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *unused: object) -> None:
        os.close(self._done)  # releases every lock, too

    def _prepare(self) -> None:
        for pattern in ("part-*", "*.json", "*.npy"):
            for file in self.folder.glob(pattern):
                file.unlink()
        os.ftruncate(self._done, 0)
        os.ftruncate(self._done, self.count)
        if self.width:
            kind = DTYPES[self.dtype]
            size = self.rows * self.width * np.dtype(kind).itemsize
            with (self.folder / "dense.npy").open("wb") as array_file:
                array_file.write(header(kind, (self.rows, self.width)))
                array_file.truncate(HEAD + size)
        atomic_write(self.folder / _PLAN, self._manifest)

    @property
    def done(self) -> int:
        """Rows in finished windows."""
        if self.complete:
            return self.rows
        marks = self._marks()
        return sum(self._rows(number) for number in range(self.count) if marks[number])

    def _marks(self) -> bytes:
        """Return a byte for each window, which is not 0 once the window is finished."""
        return os.pread(self._done, self.count, 0)

    def _rows(self, number: int) -> int:
        return min(self.window, self.rows - number * self.window)

    def windows(self, wait: bool = True) -> Iterator[tuple[int, int]]:
        """Yield the first row and the end of each window left to this process, which then must `put` it.

        With `wait` it ends when all processes have finished their windows; a dead process's window is given out again.
        """
        while not self.complete:
            for number in range(self.count):
                if self._claim(number):
                    first = number * self.window
                    yield first, first + self._rows(number)
            if not wait or not self._others_work():
                return
            time.sleep(_WAIT)

    def _others_work(self) -> bool:
        """Return whether a window is unfinished that this process has not claimed."""
        marks = self._marks()
        unfinished = {number for number in range(self.count) if not marks[number]}
        return not unfinished <= self._claimed

    def put(self, first: int, dense: np.ndarray | None = None, terms: Terms | TermPieces | None = None) -> None:
        """Write the window that begins at row `first`: dense [n, d] float32, terms of n rows.

        RetrobenchError for a number too large for its stored type.
        """
        number = first // self.window
        if dense is not None:
            self._put_dense(first, dense)
        if terms is not None:
            write_part(self._terms_path(number), terms)
        os.pwrite(self._done, b"\1", number)
        os.fsync(self._done)
        self._release(number)

    def _put_dense(self, first: int, dense: np.ndarray) -> None:
        stored = narrowed(dense, self.dtype)
        finite = np.isfinite(widened(stored, self.dtype)).all(1)
        if not finite.all():
            row = int(np.argmin(finite))
            largest = np.abs(dense[row]).max()
            raise RetrobenchError(
                f"Row {first + row:,} holds {largest:g}, which {self.dtype} cannot store. Store the vectors as float32."
            )
        with (self.folder / "dense.npy").open("r+b") as file:
            file.seek(HEAD + first * self.width * stored.itemsize)
            file.write(stored.tobytes())
            flush(file)

    def publish(self, ids: Iterable[str] | Path) -> None:
        """Write the ids of the rows, or copy a file of them, then the manifest. All windows must be finished.

        RetrobenchError unless the number of ids is that of the rows.
        """
        if self.done != self.rows:
            raise RuntimeError(f"{self.rows - self.done} rows are not written yet")
        if not self.complete:
            self._write_ids(ids)
            if self.words:
                parts = [self._terms_path(number) for number in range(self.count)]
                join_parts(parts, self.folder)
            atomic_write(self.folder / "manifest.json", self._manifest)
        for file in (*self.folder.glob("part-*"), self.folder / _PLAN, self.folder / _DONE):
            file.unlink(missing_ok=True)

    def _write_ids(self, ids: Iterable[str] | Path) -> None:
        file = self.folder / "ids.json"
        if isinstance(ids, Path):
            atomic_write(file, _chunks(ids))
        else:
            atomic_write(file, _json_list(ids, self.rows))

    def _terms_path(self, number: int) -> Path:
        return self.folder / f"part-{number:08d}"

    # The file _DONE has a byte for each window: 1 if it is finished, locked if a process works on it. The kernel
    # releases the locks of a process that ends.

    def _claim(self, number: int) -> bool:
        if number in self._claimed or self._finished(number):
            return False
        try:
            fcntl.lockf(self._done, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        self._claimed.add(number)
        if self._finished(number):  # by a process that held the lock between the two looks
            self._release(number)
        return number in self._claimed

    def _finished(self, number: int) -> bool:
        return os.pread(self._done, 1, number) == b"\1"

    def _release(self, number: int) -> None:
        fcntl.lockf(self._done, fcntl.LOCK_UN, 1, number)
        self._claimed.discard(number)

    @contextlib.contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        fcntl.lockf(self._done, fcntl.LOCK_EX, 1, number)
        try:
            yield
        finally:
            self._release(number)


def _json_list(ids: Iterable[str], rows: int) -> Iterator[str]:
    """Yield a JSON list of ids in pieces. RetrobenchError unless there are `rows` ids."""
    count = 0
    for text_id in ids:
        separator = ", " if count else "["
        yield separator + json.dumps(text_id)
        count += 1
    if count != rows:
        raise RetrobenchError(f"{rows:,} rows were encoded and {count:,} ids are to name them; encode the texts again.")
    yield "]" if count else "[]"


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        yield from iter(lambda: content.read(2**20), b"")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
