"""The benchmark of encoding: both sides read equal tokens, and sides that differ are refused."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np
import pytest

from retrobench.bench import memory
from retrobench.bench.benchmarks import encode, scale
from retrobench.bench.frame import Case, Timed, UnequalError
from retrobench.bench.models import Scale
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, draw_lengths
from retrobench.config import ResolvedPrecision
from retrobench.data.tokens import TokenisedTexts
from retrobench.retrieval.tokenised import Texts

TEXTS = 24
TINY = Scale(2, 32, 2, 128, batch=TEXTS, length=encode.LONGEST, spread=encode.SPREAD)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> encode.Sides:
    folder = tmp_path_factory.mktemp("sides")
    return encode.Sides(folder, TINY, Setting("cpu", smoke=True))


def test_both_sides_read_the_same_tokens(sides: encode.Sides) -> None:
    tokens = TokenisedTexts.open(sides.folder / "tokens")
    window = Texts.of(tokens, 0, TEXTS, VOCABULARY, encode.LONGEST)
    ids, mask = window.batch(np.arange(TEXTS))
    peer_batch = sides.peer.preprocess(sides.texts)
    assert np.array_equal(peer_batch["input_ids"], ids)
    assert np.array_equal(peer_batch["attention_mask"], mask)
    lengths = draw_lengths(TEXTS, encode.LONGEST)
    assert mask.sum(1).tolist() == lengths.tolist()


def test_equal_sides_pass_and_different_sides_are_refused(sides: encode.Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sides.ours() == TEXTS
    assert sides.theirs("bf16") == TEXTS
    assert sides.published() == TEXTS
    assert sides.compare_published().startswith("cosine >= 1.0000000 in fp32")
    encode_peer = sides._encode_peer

    def reverse(texts: list[str], precision: ResolvedPrecision) -> np.ndarray:
        vectors = encode_peer(texts, precision)
        return vectors[::-1].copy()

    monkeypatch.setattr(sides, "_encode_peer", reverse)
    with pytest.raises(UnequalError, match=r"cosine is -?\d\.\d+, of at least 0\.9999"):
        sides.compare_published()


def test_kernels_of_attention_are_compared_on_new_shapes_first(sides: encode.Sides) -> None:
    case = Case(name="", unit="passages/s", ours=sides.ours, check=sides.compare_vectors)
    compared = list(encode.attention_cases(sides, case))
    assert [(case.name.removeprefix("attention auto, against "), case.warmups) for case in compared] == [
        ("cudnn on new shapes", 0),
        ("cudnn", 1),
        ("math", 1),
    ]
    for case in compared:
        assert case.check().startswith("cosine >= 1.0000000 in bf16"), "a processor has one kernel"
        assert case.peer is not None
        for side in (case.ours, case.peer):
            units = side()
            if "new shapes" in case.name:
                assert isinstance(units, Timed)
                assert side() is units, "its shapes are new once"
                units = units.units
            assert units == TEXTS


def test_ranks_and_ndcg_of_one_relevant_document() -> None:
    documents = np.eye(12, dtype=np.float32)
    first = encode.ranks(documents, documents)
    assert first.tolist() == [1] * 12
    assert encode.ndcg(first) == 1
    next_document = np.roll(documents, 1, axis=0)
    second = encode.ranks(documents + 2 * next_document, documents)
    assert second.tolist() == [2] * 12
    assert encode.ndcg(second) == pytest.approx(1 / np.log2(3))
    # Every query ranks document 0 first and document 11 last.
    falling = np.arange(12, 0, -1, dtype=np.float32)
    all_ranks = encode.ranks(np.tile(falling, (12, 1)), documents)
    assert all_ranks.tolist() == list(range(1, 13))
    gains = 1 / np.log2(np.arange(1, 11) + 1)
    assert encode.ndcg(all_ranks) == pytest.approx(gains.sum() / 12)


def test_few_queries_may_slip() -> None:
    peer = np.ones(200, np.int64)
    ours = peer.copy()
    ours[:8] = 3
    compared = encode.require_few_slips(ours, peer, "bf16")
    assert compared == "nDCG@10 0.9800 in bf16, 1.0000 in fp32; 8 of 200 queries slip, by 2 ranks at most"
    ours[8] = 2
    with pytest.raises(UnequalError, match=r"9 of 200 queries slip, .*more than 4%"):
        encode.require_few_slips(ours, peer, "bf16")


def test_the_peak_counts_memory_freed_at_once() -> None:
    idle = memory.anonymous()
    deadline = time.monotonic() + 20
    # Pages from the system itself: numpy may reuse memory that this process already has.
    size = 200_000_000
    with memory.Watch() as watch, mmap.mmap(-1, size, mmap.MAP_PRIVATE) as pages:
        pages.write(b"1" * size)
        while watch.peak < idle + size / 2 and time.monotonic() < deadline:
            time.sleep(memory.SECONDS)
    assert idle + size / 2 < watch.peak < idle + 3 * size


def test_the_process_of_scale_prints_its_peak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = tmp_path / "tokens"
    vectors = tmp_path / "vectors"
    vectors.mkdir()
    scale.write_random(tokens, 300)
    scale.main(tokens, vectors)
    peak = capsys.readouterr().out.split()[-1]
    assert int(peak) > 0
    assert (vectors / "manifest.json").exists()
