"""
Memory that does not grow with the corpus: a tiny model encodes a million passages in a process of its own.

`python -m retrobench.bench.scale TOKENS OUT` is that process; it prints the most anonymous memory it held, in bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrobench.bench import scale_search
from retrobench.bench.frame import Case, Setting, UnequalError
from retrobench.bench.memory import Watch
from retrobench.bench.models import Scale, bert, encoder
from retrobench.bench.texts import VOCABULARY, write_untitled
from retrobench.data import TokenisedTexts
from retrobench.model import Backbone
from retrobench.retrieval import write_vectors

__all__ = ["cases", "main", "write_random"]

LIMIT, GROWTH = 1.5e9, 1.1  # bytes; of ten times the passages
LONGEST = 16  # tokens, [CLS] and [SEP] among them
TINY = Scale(2, 32, 2, 64, 0, LONGEST)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield encoding, a tenth of the passages while it is checked and all while it is timed; then searching."""
    rows = 20_000 if setting.smoke else 1_000_000
    peaks: dict[int, float] = {}  # bytes, by the number of passages

    def encoded(count: int) -> float:
        peaks[count] = _peak(count)
        return float(count)

    def check() -> str:
        encoded(rows // 10)
        return f"{rows // 10:,} passages encoded, every vector finite"

    def says() -> str:
        small, large = peaks[rows // 10], peaks[rows]
        report = (
            f"anonymous memory {small / 1e6:,.0f} MB for {rows // 10:,} passages, {large / 1e6:,.0f} MB for {rows:,}"
        )
        if large > LIMIT or large > GROWTH * small:
            raise UnequalError(f"{report}: more than {LIMIT / 1e9:g} GB, or more than {GROWTH:g} times the former.")
        return report

    yield Case(
        name=f"encode {rows:,} passages",
        unit="passages/s",
        ours=lambda: encoded(rows),
        check=check,
        memory=False,
        rounds=1,
        warmups=0,
        says=says,
    )
    yield from scale_search.cases(setting)


def _peak(count: int) -> float:
    """Encode passages in a process of its own; return the most anonymous memory it held."""
    with tempfile.TemporaryDirectory() as name:
        tokens, out = Path(name) / "tokens", Path(name) / "out"
        out.mkdir()
        write_random(tokens, count)
        words = [sys.executable, "-m", "retrobench.bench.scale", str(tokens), str(out)]
        # The model is too small to be worth a second thread.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment)
        if process.returncode:
            raise UnequalError(f"encoding {count:,} passages failed; the reason stands above.")
        return float(process.stdout)


def write_random(folder: Path, rows: int) -> None:
    """Write tokenised passages of random lengths and ids."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, LONGEST - 1, rows)
    write_untitled(folder, random.integers(1000, 30_000, int(lengths.sum()), dtype=np.uint16), lengths)


def main(tokens: Path, out: Path) -> None:
    """Encode a folder of tokens, watched, and print the most memory held."""
    model = encoder(Backbone(bert(TINY)))
    with Watch() as watch:
        write_vectors(out, model, VOCABULARY, TokenisedTexts.open(tokens), "passage", LONGEST, False, {}, "encode")
    print(watch.peak)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
