"""The benchmark of encoding: both sides read equal tokens, and sides that differ are refused."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np
import pytest

from retrobench.bench import encode, memory, scale
from retrobench.bench.frame import Setting, UnequalError
from retrobench.bench.models import Scale
from retrobench.bench.texts import VOCABULARY, draw_lengths
from retrobench.data.tokens import TokenisedTexts
from retrobench.retrieval.tokenised import Texts

TEXTS = 24
TINY = Scale(2, 32, 2, 128, batch=TEXTS, length=encode.LONGEST, spread=encode.SPREAD)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> encode.Sides:
    return encode.Sides(tmp_path_factory.mktemp("sides"), TINY, Setting("cpu", smoke=True))


def test_both_sides_read_the_same_tokens(sides: encode.Sides) -> None:
    tokens = TokenisedTexts.open(sides.folder / "tokens")
    window = Texts.of(tokens, 0, TEXTS, VOCABULARY, encode.LONGEST)
    ids, mask = window.batch(np.arange(TEXTS))
    theirs = sides.peer.preprocess(sides.texts)
    assert np.array_equal(theirs["input_ids"], ids)
    assert np.array_equal(theirs["attention_mask"], mask)
    assert mask.sum(1).tolist() == draw_lengths(TEXTS, encode.LONGEST).tolist()


def test_equal_sides_pass_and_different_sides_are_refused(sides: encode.Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sides.ours() == TEXTS
    assert sides.theirs(True) == TEXTS
    assert sides.published() == TEXTS
    assert sides.compare_published().startswith("cosine >= 1.0000000 in fp32")
    encode_peer = sides._encode_peer

    def reverse(texts: list[str], halved: bool) -> np.ndarray:
        return encode_peer(texts, halved)[::-1].copy()

    monkeypatch.setattr(sides, "_encode_peer", reverse)
    with pytest.raises(UnequalError, match=r"cosine is -?\d\.\d+, of at least 0\.9999"):
        sides.compare_published()


def test_ndcg_of_one_relevant_document() -> None:
    documents = np.eye(12, dtype=np.float32)
    assert encode.ndcg(documents, documents) == 1
    second = documents + 2 * np.roll(documents, 1, axis=0)
    assert encode.ndcg(second, documents) == pytest.approx(1 / np.log2(3))
    # Every query ranks document 0 first and document 11 last: its own is at ranks 1 to 12.
    falling = np.tile(np.arange(12, 0, -1, dtype=np.float32), (12, 1))
    gains = 1 / np.log2(np.arange(10) + 2)
    assert encode.ndcg(falling, documents) == pytest.approx(gains.sum() / 12)


def test_the_peak_counts_memory_freed_at_once() -> None:
    idle = memory.anonymous()
    deadline = time.monotonic() + 20
    # Pages from the system itself: numpy may reuse memory that this process already has.
    with memory.Watch() as watch, mmap.mmap(-1, 200_000_000, mmap.MAP_PRIVATE) as pages:
        pages.write(b"1" * len(pages))
        while watch.peak < idle + len(pages) / 2 and time.monotonic() < deadline:
            time.sleep(memory.SECONDS)
    assert idle + 0.5 * 200e6 < watch.peak < idle + 600e6


def test_the_process_of_scale_prints_its_peak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale.write_random(tmp_path / "tokens", 300)
    (tmp_path / "out").mkdir()
    scale.main(tmp_path / "tokens", tmp_path / "out")
    assert int(capsys.readouterr().out.split()[-1]) > 0
    assert (tmp_path / "out" / "manifest.json").exists()
