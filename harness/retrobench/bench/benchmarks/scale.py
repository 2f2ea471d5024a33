"""
Memory that does not grow with the corpus: a tiny model encodes a million passages in a process of its own.

`python -m retrobench.bench.benchmarks.scale TOKENS OUT` is that process. It prints the most anonymous memory that it
held, in bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrobench.bench.benchmarks import scale_search
from retrobench.bench.frame import Case, UnequalError
from retrobench.bench.memory import Watch
from retrobench.bench.models import Scale, make_bert, make_encoder
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, write_untitled
from retrobench.data import TokenisedTexts
from retrobench.model import Backbone
from retrobench.retrieval import write_vectors

__all__ = ["cases", "main", "write_random"]

LIMIT = 1.5e9  # bytes
GROWTH = 1.1  # of ten times the passages
LONGEST = 16  # tokens, [CLS] and [SEP] among them
TINY = Scale(2, 32, 2, 64, 0, LONGEST)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield encoding, a tenth of the passages while it is checked and all while it is timed; then searching."""
    rows = 20_000 if setting.smoke else 1_000_000
    encoding = _Encoding(rows)
    yield Case(
        name=f"encode {rows:,} passages",
        unit="passages/s",
        ours=encoding.encode_all,
        check=encoding.encode_tenth,
        memory=False,
        rounds=1,
        warmups=0,
        interpret=encoding.compare,
    )
    yield from scale_search.cases(setting)


class _Encoding:
    """Encoding all passages and a tenth of them, with the peak memory of each, in bytes."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.tenth = rows // 10
        self.peak = 0.0
        self.peak_of_tenth = 0.0

    def encode_all(self) -> float:
        self.peak = _encode_apart(self.rows)
        return float(self.rows)

    def encode_tenth(self) -> str:
        self.peak_of_tenth = _encode_apart(self.tenth)
        return f"{self.tenth:,} passages encoded, every vector finite"

    def compare(self) -> str:
        """Return both peaks; UnequalError where memory grows with the passages."""
        report = (
            f"anonymous memory {self.peak_of_tenth / 1e6:,.0f} MB for {self.tenth:,} passages, "
            f"{self.peak / 1e6:,.0f} MB for {self.rows:,}"
        )
        if self.peak > LIMIT or self.peak > GROWTH * self.peak_of_tenth:
            raise UnequalError(f"{report}: more than {LIMIT / 1e9:g} GB, or more than {GROWTH:g} times the former.")
        return report


def _encode_apart(count: int) -> float:
    """Encode passages in a process of its own; return the most anonymous memory it held."""
    with tempfile.TemporaryDirectory() as name:
        tokens = Path(name) / "tokens"
        out = Path(name) / "out"
        out.mkdir()
        write_random(tokens, count)
        command = [sys.executable, "-m", "retrobench.bench.benchmarks.scale", str(tokens), str(out)]
        # The model is too small to be worth a second thread.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        if process.returncode:
            raise UnequalError(f"encoding {count:,} passages failed; the reason stands above.")
        return float(process.stdout)


def write_random(folder: Path, rows: int) -> None:
    """Write tokenised passages of random lengths and ids."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, LONGEST - 1, rows)
    token_count = int(lengths.sum())
    tokens = random.integers(1000, 30_000, token_count, dtype=np.uint16)
    write_untitled(folder, tokens, lengths)


def main(tokens: Path, out: Path) -> None:
    """Encode a folder of tokens, watched, and print the most memory held."""
    model = make_encoder(Backbone(make_bert(TINY)))
    with Watch() as watch:
        texts = TokenisedTexts.open(tokens)
        write_vectors(out, model, VOCABULARY, texts, kind="passage", max_length=LONGEST)
    print(watch.peak)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
