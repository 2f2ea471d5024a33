"""A collection's texts, read once in their order, window by window. Their ids go to disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import TracebackType

from retrobench.errors import RetrobenchError

__all__ = ["Stream"]

_CHUNK = 8192  # texts read at a time
_RECENT = 2  # windows whose ids stay in memory: the window that is computed, and the window before it


class Stream:
    """`total` pairs (id, text) in windows. The ids go into a file in `folder` as they pass.

    A request for an earlier window iterates over the pairs again, which must allow it.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], total: int, kind: str, folder: Path) -> None:
        self.pairs = pairs
        self.total = total
        self.kind = kind
        self._source = iter(pairs)
        self._row = 0  # of the next pair of the source
        self._ids_path = folder / f"part-ids-{os.getpid()}"
        self._ids_file = self._ids_path.open("w", encoding="utf-8")
        self._ids_written = 0
        self._recent_ids: dict[int, list[str]] = {}  # first row of a window -> its ids

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ids_file.close()
        self._ids_path.unlink(missing_ok=True)

    def texts(self, first: int, last: int) -> list[str]:
        """Return the texts of the rows `first` to `last`. RetrobenchError if the pairs end earlier."""
        if first < self._row:
            self._source = iter(self.pairs)
            self._row = 0
        while self._row < first:
            if not self._read(min(_CHUNK, first - self._row)):
                raise self._wrong_count()
        pairs = self._read(last - first)
        if len(pairs) < last - first:
            raise self._wrong_count()
        self._recent_ids[first] = [text_id for text_id, _ in pairs]
        for old_first in sorted(self._recent_ids)[:-_RECENT]:
            del self._recent_ids[old_first]
        return [text for _, text in pairs]

    def id_and_window_size(self, row: int) -> tuple[str, int]:
        """Return the id of a row in a recent window, and the number of rows of that window."""
        first = max(first for first in self._recent_ids if first <= row)
        ids = self._recent_ids[first]
        return ids[row - first], len(ids)

    def ids(self) -> Path:
        """Return the file of all ids, a JSON list. RetrobenchError unless there are `total` texts."""
        while self._read(_CHUNK):
            pass
        if self._ids_written != self.total or not self.total:
            raise self._wrong_count()
        self._ids_file.write("]")
        self._ids_file.flush()
        return self._ids_path

    def _read(self, count: int) -> list[tuple[str, str]]:
        pairs = list(islice(self._source, count))
        new_pairs = pairs[max(0, self._ids_written - self._row) :]
        for text_id, _ in new_pairs:
            separator = ", " if self._ids_written else "["
            self._ids_file.write(separator + json.dumps(text_id))
            self._ids_written += 1
        self._row += len(pairs)
        return pairs

    def _wrong_count(self) -> RetrobenchError:
        return RetrobenchError(
            f"{self.total:,} texts ({self.kind}) were announced and {self._ids_written:,} read: the collection's files "
            "are cut short or empty. Fetch or mend them, and run the same command again."
        )
