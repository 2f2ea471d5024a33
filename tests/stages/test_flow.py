"""Each input is read once, each artifact is requested once, and a row names every artifact."""

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
    """Count readings of corpora by folder, hashes of files by name, and requests to the store by key."""
    counted: Counts = {"corpora": Counter(), "hashes": Counter(), "ensures": Counter()}
    documents = FolderDataset.documents
    ensure = Store.ensure

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


def run(track: tiny.Tiny, *entrants: str) -> Swept:
    request = Request(entrants, str(track.track), (0,), (), track.store, track.boards)
    return sweep(request)


def test_a_new_run_reads_its_corpus_twice_and_requests_each_artifact_once(tmp_path: Path, counts: Counts) -> None:
    """The corpus is read for its hash and for its tokens."""
    track = tiny.make(tmp_path)
    (row,) = run(track, "dupmae").rows
    assert counts["corpora"] == {str(track.data): 2}
    assert set(counts["hashes"].values()) == {1}
    assert "model.safetensors" in counts["hashes"]
    assert counts["ensures"] == dict.fromkeys(row.artifacts.values(), 1)
    assert len(row.artifacts) == 21


def test_a_cached_run_reads_its_corpus_once(tmp_path: Path, counts: Counts) -> None:
    track = tiny.make(tmp_path)
    (first,) = run(track, "dupmae").rows
    for counter in counts.values():
        counter.clear()
    (repeated,) = run(track, "dupmae").rows
    assert repeated == first
    assert counts["corpora"] == {str(track.data): 1}
    assert set(counts["hashes"].values()) == {1}
    assert counts["ensures"] == dict.fromkeys(first.artifacts.values(), 1)


def test_several_entrants_read_the_corpus_and_the_base_once(tmp_path: Path, counts: Counts) -> None:
    track = tiny.make(tmp_path)
    rows = run(track, "bert", "mlm", "bm25").rows
    assert len(rows) == 3
    assert counts["corpora"] == {str(track.data): 3}, "for its hash, its tokens and BM25"
    assert set(counts["hashes"].values()) == {1}
