"""The benchmark of encoding: both sides read equal tokens, and sides that differ are refused."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np
import pytest

from retrobench.bench import encode, memory, scale
from retrobench.bench.frame import Case, Setting, UnequalError
from retrobench.bench.models import Scale
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
        assert case.ours() == case.peer() == TEXTS


def test_ndcg_of_one_relevant_document() -> None:
    documents = np.eye(12, dtype=np.float32)
    assert encode.ndcg(documents, documents) == 1
    next_document = np.roll(documents, 1, axis=0)
    queries_at_rank_2 = documents + 2 * next_document
    assert encode.ndcg(queries_at_rank_2, documents) == pytest.approx(1 / np.log2(3))
    # Every query ranks document 0 first and document 11 last: its own is at ranks 1 to 12.
    falling = np.arange(12, 0, -1, dtype=np.float32)
    falling_queries = np.tile(falling, (12, 1))
    ranks = np.arange(1, 11)
    gains = 1 / np.log2(ranks + 1)
    assert encode.ndcg(falling_queries, documents) == pytest.approx(gains.sum() / 12)


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
