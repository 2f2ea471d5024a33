"""Vectors written window by window."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from retrobench.core import atomic_write
from retrobench.errors import RetrobenchError
from retrobench.retrieval.vectors.layout import DTYPES, FORMAT, HEAD, PARTS, Terms, header, narrowed, widened

__all__ = ["Writer"]

_PLAN, _DONE = "plan.json", "windows.done"
_WAIT = 0.05  # seconds between two looks at what others write


class Writer:
    """The rows of a collection in a folder of their own, filled by windows: rows `w * window` on are window w.

    Any number of processes may write with the same arguments: `windows` gives each one what is not done and nobody else
    is at, and a finished window stays finished, whatever kills its process. All writes are plain ones, so that a full
    disk is an OSError. `about` goes into the manifest.
    """

    def __init__(
        self,
        folder: Path,
        rows: int,
        width: int = 0,
        words: int = 0,
        dtype: str = "float32",
        window: int = 8192,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.rows, self.width, self.words, self.dtype = folder, rows, width, words, dtype
        self.window, self.count = window, -(-rows // window)
        facts = {"format": FORMAT, "rows": rows, "width": width, "words": words, "dtype": dtype}
        facts |= {"first": 0, "last": rows, "windows": window}
        about = about or {}
        if clashes := [name for name in facts if about.get(name, facts[name]) != facts[name]]:
            raise ValueError(f"about says otherwise than the manifest of {', '.join(clashes)}")
        self._mine = set[int]()  # windows given out and not put yet
        self._manifest = json.dumps({**facts, **about}, indent=1) + "\n"
        self._done = os.open(folder / _DONE, os.O_RDWR | os.O_CREAT, 0o666)
        # A process may be killed when all is published and before its caller has put the folder in its place.
        self.complete = _text(folder / "manifest.json") == self._manifest
        with self._held(self.count):  # one process prepares, the others find it prepared
            if not self.complete and _text(folder / _PLAN) != self._manifest:
                self._prepare()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *unused: object) -> None:
        os.close(self._done)  # and with it goes every lock

    def _prepare(self) -> None:
        for left in (file for pattern in ("part-*", "*.json", "*.npy") for file in self.folder.glob(pattern)):
            left.unlink()
        os.ftruncate(self._done, 0)
        os.ftruncate(self._done, self.count)
        if self.width:
            with (self.folder / "dense.npy").open("wb") as file:
                file.write(header(DTYPES[self.dtype], (self.rows, self.width)))
                file.truncate(HEAD + self.rows * self.width * np.dtype(DTYPES[self.dtype]).itemsize)
        atomic_write(self.folder / _PLAN, self._manifest)

    @property
    def done(self) -> int:
        """Rows in finished windows."""
        marks = b"\1" * self.count if self.complete else os.pread(self._done, self.count, 0)
        return sum(self._rows(number) for number, mark in enumerate(marks) if mark)

    def _rows(self, number: int) -> int:
        return min(self.window, self.rows - number * self.window)

    def windows(self, wait: bool = True) -> Iterator[tuple[int, int]]:
        """First and last row of each window left to this process, each to be `put` some time.

        With `wait` it ends when the others' windows are done too; one whose process died is given out again.
        """
        while not self.complete:
            for number in range(self.count):
                if self._claim(number):
                    yield number * self.window, number * self.window + self._rows(number)
            marks = os.pread(self._done, self.count, 0)
            if not wait or all(mark or number in self._mine for number, mark in enumerate(marks)):
                return
            time.sleep(_WAIT)

    def put(self, first: int, dense: np.ndarray | None = None, terms: Terms | None = None) -> None:
        """Write the window that begins at row `first`: dense [n, d] float32, terms of n rows.

        RetrobenchError for a number too large for the type it is stored in.
        """
        number = first // self.window
        if dense is not None:
            self._put_dense(first, dense)
        if terms is not None:
            with (self.folder / f"part-{number:08d}").open("wb") as file:
                for array, kind in zip(terms, PARTS.values(), strict=True):
                    np.save(file, np.ascontiguousarray(array, kind))
                _flush(file)
        os.pwrite(self._done, b"\1", number)
        os.fsync(self._done)
        self._leave(number)

    def _put_dense(self, first: int, dense: np.ndarray) -> None:
        stored = narrowed(dense, self.dtype)
        sound = np.isfinite(widened(stored, self.dtype)).all(1)
        if not sound.all():
            row = int(np.argmin(sound))
            raise RetrobenchError(
                f"Row {first + row:,} holds {np.abs(dense[row]).max():g}, which {self.dtype} cannot store. "
                "Store the vectors as float32."
            )
        with (self.folder / "dense.npy").open("r+b") as file:
            file.seek(HEAD + first * self.width * stored.itemsize)
            file.write(stored.tobytes())
            _flush(file)

    def publish(self, ids: Iterable[str] | Path) -> None:
        """Name the rows, by ids or by a file of them to copy, and write the manifest. All windows have to be done.

        RetrobenchError where there are not as many ids as rows.
        """
        if self.done != self.rows:
            raise RuntimeError(f"{self.rows - self.done} rows are not written yet")
        if not self.complete:
            chunks = _copied(ids) if isinstance(ids, Path) else _listed(ids, self.rows)
            atomic_write(self.folder / "ids.json", chunks)
            if self.words:
                self._join()
            atomic_write(self.folder / "manifest.json", self._manifest)
        for left in (*self.folder.glob("part-*"), self.folder / _PLAN, self.folder / _DONE):
            left.unlink(missing_ok=True)

    def _join(self) -> None:
        """The windows' sparse rows one behind the other."""
        entries, sizes = 0, {"indptr": self.rows + 1}
        files = {part: (self.folder / f"terms.{part}.npy").open("wb") for part in PARTS}
        with contextlib.ExitStack() as stack:
            for file in files.values():
                stack.enter_context(file).seek(HEAD)
            files["indptr"].write(np.zeros(1, "<i8").tobytes())
            for number in range(self.count):
                with (self.folder / f"part-{number:08d}").open("rb") as part:
                    window = Terms(*(np.load(part) for _ in PARTS))
                files["indptr"].write((window.indptr[1:] + entries).tobytes())
                files["indices"].write(window.indices.tobytes())
                files["values"].write(window.values.tobytes())
                entries += len(window.values)
            for name, file in files.items():
                file.seek(0)
                file.write(header(PARTS[name], (sizes.get(name, entries),)))
                _flush(file)

    # One byte of a file for each window: written, it is done; locked, somebody is at it. The kernel drops the locks of
    # a process with it.

    def _claim(self, number: int) -> bool:
        if number in self._mine or self._finished(number):
            return False
        try:
            fcntl.lockf(self._done, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        self._mine.add(number)
        if self._finished(number):  # since it was looked at, by a process that has left it
            self._leave(number)
        return number in self._mine

    def _finished(self, number: int) -> bool:
        return os.pread(self._done, 1, number) == b"\1"

    def _leave(self, number: int) -> None:
        fcntl.lockf(self._done, fcntl.LOCK_UN, 1, number)
        self._mine.discard(number)

    @contextlib.contextmanager
    def _held(self, number: int) -> Iterator[None]:
        fcntl.lockf(self._done, fcntl.LOCK_EX, 1, number)
        try:
            yield
        finally:
            self._leave(number)


def _listed(ids: Iterable[str], rows: int) -> Iterator[str]:
    """A JSON list, id by id."""
    count = 0
    for count, identifier in enumerate(ids, 1):
        yield ("[" if count == 1 else ", ") + json.dumps(identifier)
    if count != rows:
        raise RetrobenchError(f"{rows:,} rows were encoded and {count:,} ids are to name them; encode the texts again.")
    yield "]" if count else "[]"


def _copied(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        yield from iter(lambda: content.read(2**20), b"")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())  # what is then said to be done has to be there
