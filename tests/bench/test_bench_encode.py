"""The benchmark of encoding: both sides read the same tokens, and what is not the same is refused."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np
import pytest

from retrobench.bench import encode, memory, scale
from retrobench.bench.frame import Setting, UnequalError
from retrobench.bench.models import Scale
from retrobench.bench.texts import VOCABULARY, lengths
from retrobench.data.tokens import TokenisedTexts
from retrobench.retrieval.tokenised import Texts

TINY = Scale(2, 32, 2, 128, batch=24, length=encode.LONGEST, spread=encode.SPREAD)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> encode.Sides:
    return encode.Sides(tmp_path_factory.mktemp("sides"), TINY, Setting("cpu", smoke=True))


def test_both_sides_read_the_same_tokens(sides: encode.Sides) -> None:
    window = Texts.of(TokenisedTexts.open(sides.folder / "tokens"), 0, 24, VOCABULARY, encode.LONGEST)
    ids, mask = window.batch(np.arange(24))
    theirs = sides.peer.preprocess(sides.texts)
    assert np.array_equal(theirs["input_ids"], ids) and np.array_equal(theirs["attention_mask"], mask)
    assert mask.sum(1).tolist() == lengths(24, encode.LONGEST).tolist()


def test_equal_sides_pass_and_others_are_refused(sides: encode.Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sides.ours() == sides.theirs(True) == sides.published() == 24
    assert sides.same_published().startswith("cosine >= 1.0000000 in fp32")
    peer = sides._peer
    monkeypatch.setattr(sides, "_peer", lambda texts, halved: peer(texts, halved)[::-1].copy())
    with pytest.raises(UnequalError, match=r"the least cosine is -?\d\.\d+, of at least 0\.9999\. Nothing was timed"):
        sides.same_published()


def test_ndcg_of_one_relevant_document() -> None:
    documents = np.eye(12, dtype=np.float32)
    assert encode.ndcg(documents, documents) == 1
    behind = documents + 2 * np.roll(documents, 1, axis=0)  # each second
    assert encode.ndcg(behind, documents) == pytest.approx(1 / np.log2(3))
    last = 12 - np.arange(12) * np.ones((12, 1), np.float32)
    assert encode.ndcg(last.astype(np.float32), documents) == pytest.approx(
        np.mean([1 / np.log2(n + 2) for n in range(10)]) * 10 / 12
    )


def test_memory_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The peak counts what is held for a moment only."""
    before, seconds = memory.anonymous(), time.monotonic()
    # Pages of the system's own: what numpy gets may be memory that this process has had all along.
    with memory.Watch() as watch, mmap.mmap(-1, 200_000_000, mmap.MAP_PRIVATE) as pages:
        pages.write(b"1" * len(pages))
        while watch.peak < before + len(pages) / 2 and time.monotonic() < seconds + 20:
            time.sleep(memory.SECONDS)
    assert before + 0.5 * 200e6 < watch.peak < before + 600e6
    scale.write_random(tmp_path / "tokens", 300)
    (tmp_path / "out").mkdir()
    scale.main(tmp_path / "tokens", tmp_path / "out")
    assert int(capsys.readouterr().out.split()[-1]) > 0
    assert (tmp_path / "out" / "manifest.json").exists()
