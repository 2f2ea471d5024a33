"""
Memory that does not grow with the corpus: a million made-up passages encoded by a tiny model, in a process of its own.

`python -m retrobench.bench.scale TOKENS OUT` is that process; it prints the most anonymous memory it held, in bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retrobench.bench import scale_search
from retrobench.bench.frame import Case, Setting, UnequalError
from retrobench.bench.memory import Watch
from retrobench.bench.texts import write_tokens

__all__ = ["cases", "encode_case"]

LIMIT, GROWTH = 1.5e9, 1.1  # bytes; of ten times the passages
LONGEST = 16  # tokens, [CLS] and [SEP] among them


def cases(setting: Setting) -> Iterator[Case]:
    """Encoding, then searching."""
    yield encode_case(setting)
    yield from scale_search.cases(setting)


def encode_case(setting: Setting) -> Case:
    """A tenth of the passages while it is checked, all of them while it is timed."""
    rows = 20_000 if setting.smoke else 1_000_000
    held: dict[int, float] = {}

    def encoded(count: int) -> float:
        with tempfile.TemporaryDirectory() as place:
            tokens, out = Path(place) / "tokens", Path(place) / "out"
            out.mkdir()
            _write_tokens(tokens, count)
            words = [sys.executable, "-m", "retrobench.bench.scale", str(tokens), str(out)]
            # The model is too small to be worth a second thread.
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if done.returncode:
                raise UnequalError(f"encoding {count:,} passages failed; the reason stands above.")
            held[count] = float(done.stdout)
        return float(count)

    def check() -> str:
        encoded(rows // 10)
        return f"{rows // 10:,} passages encoded, every vector finite"

    def says() -> str:
        small, large = held[rows // 10], held[rows]
        told = f"anonymous memory {small / 1e6:,.0f} MB for {rows // 10:,} passages, {large / 1e6:,.0f} MB for {rows:,}"
        if large > LIMIT or large > GROWTH * small:
            raise UnequalError(f"{told}: more than {LIMIT / 1e9:g} GB, or more than {GROWTH:g} times the former.")
        return told

    return Case(
        name=f"encode {rows:,} passages",
        unit="passages/s",
        ours=lambda: encoded(rows),
        check=check,
        memory=False,
        rounds=1,
        warmups=0,
        says=says,
    )


def _write_tokens(folder: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    counts = random.integers(1, LONGEST - 1, rows)
    write_tokens(folder, random.integers(1000, 30_000, int(counts.sum()), dtype=np.uint16), counts)


def _tiny() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    from retrobench.bench.texts import VOCABULARY
    from retrobench.config import Representations
    from retrobench.model import Backbone, Encoder

    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    lm = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY.size, intermediate_size=64, **shape))
    return Encoder(Backbone(lm), "cls", Representations())


def main(tokens: Path, out: Path) -> None:
    """Encode a folder of tokens, watched."""
    from retrobench.bench.texts import VOCABULARY
    from retrobench.data import TokenisedTexts
    from retrobench.retrieval import write_vectors

    model = _tiny()
    with Watch() as watch:
        write_vectors(out, model, VOCABULARY, TokenisedTexts.open(tokens), "passage", LONGEST, False, {}, "encode")
    print(watch.peak)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
