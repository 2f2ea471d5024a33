"""Data flow one way: what is read once, what is asked of the store once, and what a row says of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny

from retrobench.core import files
from retrobench.data.datasets import FolderDataset
from retrobench.runs.sweep import Request, Swept, sweep
from retrobench.stages import inputs
from retrobench.store import Artifact, Store

Counts = dict[str, Counter[str]]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Readings of corpora by folder, hashings of files by name, and artifacts asked of the store."""
    counted: Counts = {"corpora": Counter(), "hashes": Counter(), "ensures": Counter()}
    documents, ensure = FolderDataset.documents, Store.ensure

    def read(self: FolderDataset) -> Any:
        counted["corpora"][str(self.folder)] += 1
        return documents(self)

    def hashed(file: Path, algorithm: str = "sha256") -> str:
        counted["hashes"][file.name] += 1
        return files.file_hash(file, algorithm)

    def ensured(self: Store, *args: Any, **kwargs: Any) -> Artifact:
        artifact = ensure(self, *args, **kwargs)
        counted["ensures"][artifact.key] += 1
        return artifact

    monkeypatch.setattr(FolderDataset, "documents", read)
    monkeypatch.setattr(inputs, "file_hash", hashed)
    monkeypatch.setattr(Store, "ensure", ensured)
    return counted


def run(made: tiny.Tiny, *entrants: str) -> Swept:
    return sweep(Request(entrants, str(made.track), (0,), (), made.store, made.boards))


def test_a_new_run_reads_its_corpus_twice_and_asks_for_each_artifact_once(tmp_path: Path, counts: Counts) -> None:
    """Once to be hashed, once to be tokenised."""
    made = tiny.make(tmp_path)
    (row,) = run(made, "dupmae").rows
    assert counts["corpora"] == {str(made.data): 2}
    assert set(counts["hashes"].values()) == {1} and "model.safetensors" in counts["hashes"]
    assert counts["ensures"] == dict.fromkeys(row.artifacts.values(), 1)
    assert len(row.artifacts) == 21


def test_a_cached_run_reads_its_corpus_once(tmp_path: Path, counts: Counts) -> None:
    made = tiny.make(tmp_path)
    (first,) = run(made, "dupmae").rows
    for counter in counts.values():
        counter.clear()
    (again,) = run(made, "dupmae").rows
    assert again == first
    assert counts["corpora"] == {str(made.data): 1}
    assert set(counts["hashes"].values()) == {1}
    assert counts["ensures"] == dict.fromkeys(first.artifacts.values(), 1)


def test_several_entrants_read_the_corpus_and_the_base_once(tmp_path: Path, counts: Counts) -> None:
    made = tiny.make(tmp_path)
    rows = run(made, "bert", "mlm", "bm25").rows
    assert len(rows) == 3
    assert counts["corpora"] == {str(made.data): 3}, "hashed, tokenised, and read by BM25"
    assert set(counts["hashes"].values()) == {1}
