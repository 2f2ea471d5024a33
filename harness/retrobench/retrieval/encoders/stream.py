"""A collection's texts read once, from front to back, window by window; of their ids none is held for long."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType

from retrobench.errors import RetrobenchError

__all__ = ["Stream"]

_AT_ONCE = 8192
_HELD = 2  # windows whose ids are known: the one that is computed, and the one before it


class Stream:
    """(id, text) pairs, `total` of them, whose ids go into a file in `folder` as they pass.

    The pairs are gone through again, if they can be, where an earlier window is asked for.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], total: int, kind: str, folder: Path) -> None:
        self.pairs, self.total, self.kind = pairs, total, kind
        self._source, self._at = iter(pairs), 0
        self._names = folder / f"part-ids-{os.getpid()}"
        self._file = self._names.open("w", encoding="utf-8")
        self._named = 0  # ids in the file
        self._recent: dict[int, list[str]] = {}

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._names.unlink(missing_ok=True)

    def texts(self, first: int, last: int) -> list[str]:
        """Those of the rows `first` to `last`. RetrobenchError where they end before."""
        if first < self._at:
            self._source, self._at = iter(self.pairs), 0
        while self._at < first:
            if not self._read(min(_AT_ONCE, first - self._at)):
                raise self._short()
        found = self._read(last - first)
        if len(found) < last - first:
            raise self._short()
        self._recent[first] = [identifier for identifier, _ in found]
        for old in sorted(self._recent)[:-_HELD]:
            del self._recent[old]
        return [text for _, text in found]

    def named(self, row: int) -> tuple[str, int]:
        """The id of a row of a window that was read lately, and how many rows that window has."""
        first = max(first for first in self._recent if first <= row)
        return self._recent[first][row - first], len(self._recent[first])

    def ids(self) -> Path:
        """The file of all ids, a JSON list. RetrobenchError where there are not `total` texts."""
        while self._read(_AT_ONCE):
            pass
        if self._named != self.total or not self.total:
            raise self._short()
        self._file.write("]")
        self._file.flush()
        return self._names

    def _read(self, count: int) -> list[tuple[str, str]]:
        found = list(islice(self._source, count))
        fresh = found[max(0, self._named - self._at) :]
        self._file.writelines(self._listed(fresh))
        self._at += len(found)
        return found

    def _listed(self, pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
        for identifier, _ in pairs:
            yield (", " if self._named else "[") + json.dumps(identifier)
            self._named += 1

    def _short(self) -> RetrobenchError:
        return RetrobenchError(
            f"{self.total:,} texts ({self.kind}) were announced and {self._named:,} read: the collection's files are "
            "cut short or empty. Fetch or mend them, and run the same command again."
        )
