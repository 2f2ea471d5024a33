"""
Search among more vectors than anyone should hold: what it holds of them, at 100,000 and at 1,000,000.

What counts is RssAnon, the memory that is the process's own: pages of mapped files are the system's to take back.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from retrobench.bench.frame import Case, Setting, UnequalError
from retrobench.nearest import Documents, search
from retrobench.ranking import precedence
from retrobench.vectors import Writer

__all__ = ["cases"]

LIMIT = 1.5e9  # bytes
FLAT = 1.25  # times what a tenth of the vectors takes, the ids apart
WINDOW = 2**14
EVERY = 0.005  # seconds between two looks


def cases(setting: Setting) -> Iterator[Case]:
    """Top 100 of 1,000,000 x 768 for 500 queries, from disk."""
    rows, width, queries = (20_000, 64, 30) if setting.smoke else (1_000_000, 768, 500)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (rows // 10, rows)
        for size in sizes:
            _lay(folder / str(size), size, width)
        asked = _block(queries, width, 10**9)

        def ours() -> float:
            _search(folder / str(rows), asked)
            return float(queries)

        yield Case(
            name=f"search {rows:,} x {width} from disk, top 100",
            unit="queries/s",
            ours=ours,
            check=lambda: _bounded([_held(folder / str(size), asked) for size in sizes], sizes),
            rounds=1,
            warmups=0,
            memory=False,
        )


def _block(rows: int, width: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _lay(folder: Path, rows: int, width: int) -> None:
    folder.mkdir()
    with Writer(folder, rows, width, 0, "float16", WINDOW, {}) as writer:
        for first, last in writer.windows():
            writer.put(first, _block(last - first, width, first), None)
        writer.publish(str(row) for row in range(rows))


def _search(folder: Path, asked: np.ndarray) -> int:
    among = Documents.open(folder)
    places = precedence([str(row) for row in range(len(among))])
    return sum(len(rows) for rows, _ in search(Documents(asked), among, 100, places))


def _held(folder: Path, asked: np.ndarray) -> float:
    """Bytes of the process's own memory that a search takes at most, above what was held before."""
    before = _anonymous()
    with _watched() as seen:
        _search(folder, asked)
    return max(seen) - before


@contextmanager
def _watched() -> Iterator[list[float]]:
    seen, done = [_anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(EVERY):
            seen.append(_anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _anonymous() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _bounded(held: list[float], sizes: tuple[int, int]) -> str:
    said = ", ".join(f"{size:,} rows: {taken / 1e6:,.0f} MB" for size, taken in zip(sizes, held, strict=True))
    own = 200.0 * sizes[1]  # an id and its place in Python, which do grow
    if held[1] > LIMIT or held[1] > FLAT * held[0] + own:
        raise UnequalError(f"RssAnon above what was held before, {said}: more than {LIMIT / 1e9} GB, or not flat.")
    return f"RssAnon above what was held before, {said}"
