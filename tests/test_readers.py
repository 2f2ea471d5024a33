"""
Generated inputs for every reader of a user's file: a reader accepts one or answers with one line, and never hangs.

RETROBENCH_FUZZ=N sets the number of inputs of each reader, and RETROBENCH_SEED the seed, which a failure prints.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from fuzzed_readers import Reader, read, readers

from retrobench.core import set_verbosity

INPUTS = int(os.environ.get("RETROBENCH_FUZZ", "100"))
SEED = int(os.environ.get("RETROBENCH_SEED", "1"))
SLOWEST = 5.0  # seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


@pytest.fixture(scope="module")
def by_name(folder: Path) -> dict[str, Reader]:
    return {reader.name: reader for reader in readers(folder)}


NAMES = (
    *("run", "qrels", "BEIR qrels", "corpus", "TSV", "queries", "judgements", "dataset.toml", "track", "entrant"),
    *("--set", "--measure", "claims", "rows", "coverage", "per_query"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_accepts_an_input_or_answers_in_one_line(name: str, by_name: dict[str, Reader], folder: Path) -> None:
    assert by_name.keys() == set(NAMES)
    set_verbosity(0)  # a file of rows is read several times, and each faulty line is named
    reader = by_name[name]
    file = folder / reader.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(reader.valid)
    assert read(reader, file) == "", "the valid file is accepted"
    outcomes = {"accepted": 0, "refused": 0}
    for number in range(INPUTS):
        content = reader.change(reader.valid, random.Random(f"{SEED} {name} {number}"))
        file.write_bytes(content)
        start = time.perf_counter()
        try:
            outcomes["refused" if read(reader, file) else "accepted"] += 1
        except BaseException:
            print(f"RETROBENCH_SEED={SEED}, input {number} of {name}: {content[:2000]!r}")
            raise
        seconds = time.perf_counter() - start
        assert seconds < SLOWEST, f"RETROBENCH_SEED={SEED}, input {number} of {name} took {seconds:.1f} s"
    file.write_bytes(reader.valid)
    print(f"{name}: RETROBENCH_SEED={SEED}, {outcomes}")
    assert outcomes["refused"] or name == "rows", "some damage is seen"
