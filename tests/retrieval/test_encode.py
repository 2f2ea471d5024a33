"""Encoding by several processes and by killed ones gives the bits of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import get_ident
from typing import Literal

import numpy as np
import pytest
import tiny
import torch
from processes import launch

from retrobench.config.track import Representations
from retrobench.data.tokens import TokenChunk, TokenisedTexts, write_chunks
from retrobench.model.encoder import Embeddings, Encoder
from retrobench.model.loading import load_backbone
from retrobench.objective import Vocabulary
from retrobench.retrieval import embedding
from retrobench.retrieval.tokenised import write_vectors
from retrobench.retrieval.vectors import Terms, Vectors, Writer
from retrobench.store.store import Store

TEXTS, WINDOW = 600, 32


def encoder(base: Path) -> tuple[Encoder, Vocabulary]:
    """Return an encoder on tiny's base, with weights that tell texts apart and are equal in every process."""
    backbone, vocabulary = load_backbone(base)
    torch.manual_seed(2)
    for name, parameter in backbone.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.3)
    return Encoder(backbone, "cls+terms", Representations(dense=8, terms=6)), vocabulary


def texts(folder: Path, count: int = TEXTS, longest: int = 60) -> None:
    """Write random token ids as `tokenise` writes a collection's."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    lengths = np.stack([np.zeros(count, np.int64), draw.integers(0, longest, count)], 1)
    total = int(lengths.sum())
    tokens = draw.integers(5, 60, total, dtype=np.uint16)
    ids = [f"d{row}" for row in range(count)]
    write_chunks(folder, [TokenChunk(ids, lengths, tokens, np.ones(total, np.bool_))], np.uint16)


def make(root: Path, folder: Path) -> dict[str, float]:
    model, vocabulary = encoder(root / "base")
    torch.manual_seed(3)
    assert model.projection is not None
    torch.nn.init.normal_(model.projection.weight)
    source = TokenisedTexts.open(root / "texts")
    return write_vectors(folder, model, vocabulary, source, kind="passage", max_length=40)


def main(root: Path, killed: str = "") -> None:
    """Encode in one of several processes, and print its number of windows."""
    torch.set_num_threads(1)
    embedding.WINDOW = WINDOW
    put, done = Writer.put, list[int]()

    def counted(self: Writer, first: int, dense: np.ndarray | None = None, terms: Terms | None = None) -> None:
        if killed and len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, first, dense, terms)
        done.append(first)

    Writer.put = counted  # type: ignore[method-assign]
    work = lambda folder: make(root, folder)  # noqa: E731
    Store(root / "store").ensure("encode", {}, [], work, resumes=True, together=True, label="encode")
    print(len(done))


def words(root: Path, *more: str) -> list[str]:
    """Return the command of a process."""
    code = "import sys; sys.path[:0] = sys.argv[1].split(':'); from pathlib import Path; import test_encode as t\n"
    code += "t.main(Path(sys.argv[2]), *sys.argv[3:])"
    return [sys.executable, "-c", code, ":".join([str(Path(__file__).parent), *sys.path]), str(root), *more]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embedding, "WINDOW", WINDOW)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny.write_base(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    texts(tmp_path / "texts")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "entry.json"}


def alone(root: Path) -> dict[str, bytes]:
    """Return the files of a single process."""
    (root / "alone").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make(root, root / "alone")
    torch.set_num_threads(threads)
    return contents(root / "alone")


def stored(root: Path) -> Path:
    (folder,) = (path for path in (root / "store" / "encode").iterdir() if path.is_dir())
    return folder


def test_four_processes_are_one_bit_for_bit(root: Path) -> None:
    """Each process embeds a share of the windows, and the files equal those of one process."""
    ended = launch(words(root), 4)
    assert [process.returncode for process in ended] == [0] * 4, ended
    shares = [int(process.stdout) for process in ended]
    assert sum(shares) == -(-TEXTS // WINDOW) and sorted(shares)[-2] > 0, shares
    assert f"{TEXTS}/{TEXTS} texts" in ended[0].stderr, "rank 0 counts the other ranks' texts"
    assert contents(stored(root)) == alone(root)
    vectors = Vectors.open(stored(root))
    assert len(vectors) == TEXTS
    assert np.ptp(vectors.dense(0, TEXTS), axis=0).min() > 0


def test_killed_and_started_again_it_ends_the_same(root: Path) -> None:
    first = subprocess.run(words(root, "killed"), capture_output=True)
    assert first.returncode == -signal.SIGKILL, first.stderr
    again = subprocess.run(words(root), capture_output=True, text=True)
    assert int(again.stdout) == -(-TEXTS // WINDOW) - 3, "the windows that were finished are not done again"
    assert "encode: resuming, an earlier run was cut short" in again.stderr
    assert contents(stored(root)) == alone(root)


@pytest.fixture
def two_threads() -> Iterator[None]:
    usual_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(usual_threads)


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_threads_change_no_bit(
    kind: Literal["query", "passage"], halved: bool, root: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread computes a batch, so its bits do not depend on the other batches under way."""
    monkeypatch.setitem(embedding.TOKENS, "cpu", 128)
    model, vocabulary = encoder(root / "base")
    source = TokenisedTexts.open(root / "texts")
    threads_seen = set[int]()
    settings_seen = set[int]()  # of torch's threads
    forward = Encoder.forward

    def watched(self: Encoder, ids: torch.Tensor, mask: torch.Tensor) -> Embeddings:
        threads_seen.add(get_ident())
        settings_seen.add(torch.get_num_threads())
        return forward(self, ids, mask)

    monkeypatch.setattr(Encoder, "forward", watched)
    for name, threads in (("one", 1), ("two", 2)):
        torch.set_num_threads(threads)
        (root / name).mkdir()
        write_vectors(root / name, model, vocabulary, source, kind=kind, max_length=40, halved=halved)
        assert torch.get_num_threads() == threads
        assert settings_seen == {1}
    assert get_ident() in threads_seen
    assert len(threads_seen) == 3, "this thread, then two others"
    assert contents(root / "one") == contents(root / "two")


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_one_thread_ends_them_all(
    error: type[BaseException], root: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(embedding.TOKENS, "cpu", 64)
    monkeypatch.setattr(embedding, "WINDOW", TEXTS)
    model, vocabulary = encoder(root / "base")
    batch_sizes = list[int]()

    def failing(self: Encoder, ids: torch.Tensor, mask: torch.Tensor) -> Embeddings:
        batch_sizes.append(len(ids))
        if len(batch_sizes) == 5:
            raise error
        time.sleep(0.01)
        return Embeddings(torch.zeros(len(ids), 8), torch.ones(len(ids), model.words))

    monkeypatch.setattr(Encoder, "forward", failing)
    source = TokenisedTexts.open(root / "texts")
    (root / "broken").mkdir()
    with pytest.raises(error):
        write_vectors(root / "broken", model, vocabulary, source, kind="passage", max_length=40)
    assert len(batch_sizes) < 12, "of more than 200 batches"
    assert torch.get_num_threads() == 2 and not (root / "broken" / "manifest.json").exists()
