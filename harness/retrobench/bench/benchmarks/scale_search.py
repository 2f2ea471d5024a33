"""The memory of a search from disk, among 100,000 and among 1,000,000 vectors."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrobench.bench.frame import Case, UnequalError
from retrobench.bench.memory import Watch
from retrobench.bench.setting import Setting
from retrobench.bench.texts import unit
from retrobench.retrieval import Vectors, VectorSet, Writer, search
from retrobench.scoring import ranking

__all__ = ["cases"]

LIMIT = 1.5e9  # bytes
GROWTH = 1.1  # of the memory, for ten times the rows; the ids come on top
ID = 100  # bytes that an id and its tie rank may take
DEPTH = 100
QUERIES = 500
WINDOW = 2**14


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the top 100 of 1,000,000 x 768 for 500 queries, from disk."""
    rows, width = 1_000_000, 768
    if setting.smoke:
        # A tenth of these rows fills blocks and loads every kernel. Above, only the ids may add memory.
        rows, width = 200_000, 32
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (rows // 10, rows)
        for size in sizes:
            _write_vectors(folder / str(size), size, width)
        queries = unit(QUERIES, width, 10**9)

        def ours() -> float:
            _search(folder / str(rows), queries)
            return float(QUERIES)

        def check() -> str:
            peaks = [_peak(folder / str(size), queries) for size in sizes]
            return _check_memory(peaks, sizes)

        yield Case(
            name=f"search {rows:,} x {width} from disk, top 100",
            unit="queries/s",
            ours=ours,
            check=check,
            rounds=1,
            warmups=0,
            memory=False,
        )


def _write_vectors(folder: Path, rows: int, width: int) -> None:
    folder.mkdir()
    drawn = unit(WINDOW, width, 0)
    with Writer(folder, rows, width, 0, "float16", WINDOW, {}) as writer:
        for first, last in writer.windows():
            # Rolled copies of one window: drawing a million vectors would take longer than searching them.
            window = drawn[: last - first]
            rolled = np.roll(window, first // WINDOW, 1)
            writer.put(first, rolled, None)
        writer.publish(map(str, range(rows)))


def _search(folder: Path, queries: np.ndarray) -> int:
    stored = Vectors.open(folder)
    tie_ranks = ranking.precedence(stored.ids)
    blocks = search(VectorSet(queries), VectorSet.of(stored), DEPTH, tie_ranks)
    return sum(len(rows) for rows, _ in blocks)


def _peak(folder: Path, queries: np.ndarray) -> int:
    """Return the most bytes of anonymous memory that this process takes while it searches."""
    gc.collect()
    with Watch() as watch:
        _search(folder, queries)
    return watch.peak


def _check_memory(peaks: list[int], sizes: tuple[int, int]) -> str:
    """Return the peaks as text. UnequalError for a peak above LIMIT or one that grows with the rows."""
    tenth_peak, peak = peaks
    tenth, rows = sizes
    tenth_memory = f"{tenth_peak / 1e6:,.0f} MB for {tenth:,} rows"
    memory = f"{peak / 1e6:,.0f} MB for {rows:,} rows"
    text = f"anonymous memory {tenth_memory}, {memory}"
    ids = ID * (rows - tenth)
    if peak > LIMIT or peak > GROWTH * tenth_peak + ids:
        raise UnequalError(f"{text}: more than {LIMIT / 1e9:g} GB, or it grows by more than the ids.")
    return f"{text}, the ids among it"
