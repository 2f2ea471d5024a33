"""Search among more vectors than anyone should hold: what it holds of them, at 100,000 and at 1,000,000."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrobench.bench.frame import Case, Setting, UnequalError
from retrobench.bench.memory import Watch
from retrobench.bench.texts import unit
from retrobench.retrieval import Documents, Vectors, Writer, search
from retrobench.scoring import ranking

__all__ = ["cases"]

LIMIT = 1.5e9  # bytes
GROWTH = 1.1  # of ten times the rows, beside
ID = 100  # bytes that an id and its place among equals may take
DEPTH, QUERIES = 100, 500
WINDOW = 2**14


def cases(setting: Setting) -> Iterator[Case]:
    """Top 100 of 1,000,000 x 768 for 500 queries, from disk."""
    # Even a tenth of the smoke's rows fills blocks and loads every kernel: from there on, only the ids may add memory.
    rows, width = (200_000, 32) if setting.smoke else (1_000_000, 768)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (rows // 10, rows)
        for size in sizes:
            _lay(folder / str(size), size, width)
        asked = unit(QUERIES, width, 10**9)

        def ours() -> float:
            _search(folder / str(rows), asked)
            return float(QUERIES)

        yield Case(
            name=f"search {rows:,} x {width} from disk, top 100",
            unit="queries/s",
            ours=ours,
            check=lambda: _bounded([_held(folder / str(size), asked) for size in sizes], sizes),
            rounds=1,
            warmups=0,
            memory=False,
        )


def _lay(folder: Path, rows: int, width: int) -> None:
    folder.mkdir()
    drawn = unit(WINDOW, width, 0)
    with Writer(folder, rows, width, 0, "float16", WINDOW, {}) as writer:
        for first, last in writer.windows():
            # The same numbers at other places: drawing a million vectors would take longer than searching them.
            writer.put(first, np.roll(drawn[: last - first], first // WINDOW, 1), None)
        writer.publish(str(row) for row in range(rows))


def _search(folder: Path, asked: np.ndarray) -> int:
    stored = Vectors.open(folder)
    found = search(Documents(asked), Documents.of(stored), DEPTH, ranking.precedence(stored.ids))
    return sum(len(rows) for rows, _ in found)


def _held(folder: Path, asked: np.ndarray) -> int:
    """Bytes of anonymous memory that this process holds at most while it searches."""
    gc.collect()
    with Watch() as watch:
        _search(folder, asked)
    return watch.peak


def _bounded(held: list[int], sizes: tuple[int, int]) -> str:
    said = ", ".join(f"{taken / 1e6:,.0f} MB for {size:,} rows" for size, taken in zip(sizes, held, strict=True))
    if held[1] > LIMIT or held[1] > GROWTH * held[0] + ID * (sizes[1] - sizes[0]):
        raise UnequalError(f"anonymous memory {said}: more than {LIMIT / 1e9:g} GB, or it grows by more than the ids.")
    return f"anonymous memory {said}, the ids among it"
