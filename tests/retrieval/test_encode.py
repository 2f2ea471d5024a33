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
from torch.nn.attention import SDPBackend

from retrobench.config import Attention, Representations, ResolvedPrecision
from retrobench.core import bar, set_verbosity
from retrobench.data.tokens import TokenChunk, TokenisedTexts, write_chunks
from retrobench.model.encoder import Embeddings, Encoder
from retrobench.model.loading import load_backbone
from retrobench.objective import Vocabulary
from retrobench.retrieval import embedding
from retrobench.retrieval.tokenised import write_vectors
from retrobench.retrieval.vectors import TermPieces, Terms, Vectors, Writer
from retrobench.store.store import Store

TEXTS, WINDOW = 600, 32
WINDOWS = 19  # the last is shorter


def encoder(base: Path) -> tuple[Encoder, Vocabulary]:
    """Return an encoder on tiny's base, with weights that tell texts apart and are equal in every process."""
    backbone, vocabulary = load_backbone(base)
    torch.manual_seed(2)
    for name, parameter in backbone.named_parameters():
        mean = 0.0
        if "LayerNorm.weight" in name:
            mean = 1.0
        torch.nn.init.normal_(parameter, mean=mean, std=0.3)
    sizes = Representations(dense=8, terms=6)
    return Encoder(backbone, "cls+terms", sizes), vocabulary


def texts(folder: Path, count: int = TEXTS, longest: int = 60) -> None:
    """Write random token ids as `tokenise` writes a collection's."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    title_lengths = np.zeros(count, np.int64)
    text_lengths = draw.integers(0, longest, count)
    lengths = np.stack([title_lengths, text_lengths], 1)
    total = int(lengths.sum())
    tokens = draw.integers(5, 60, total, dtype=np.uint16)
    ids = [f"d{row}" for row in range(count)]
    starts = np.ones(total, np.bool_)
    write_chunks(folder, [TokenChunk(ids, lengths, tokens, starts)], np.uint16)


def make(root: Path, folder: Path) -> dict[str, float]:
    """Encode the texts of a root into a folder of vectors."""
    model, vocabulary = encoder(root / "base")
    torch.manual_seed(3)
    assert model.projection is not None
    torch.nn.init.normal_(model.projection.weight)
    source = TokenisedTexts.open(root / "texts")
    with bar("encode", len(source), "texts") as advance:
        return write_vectors(folder, model, vocabulary, source, kind="passage", max_length=40, advance=advance)


def main(root: Path, killed: str = "") -> None:
    """Encode in one of several processes, and print its number of windows."""
    torch.set_num_threads(1)
    set_verbosity(2)  # a bar this short leaves no line otherwise
    embedding.WINDOW = WINDOW
    put = Writer.put
    windows = list[int]()  # the first row of each

    def counted(
        self: Writer, first: int, dense: np.ndarray | None = None, terms: Terms | TermPieces | None = None
    ) -> None:
        if killed and len(windows) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, first, dense, terms)
        windows.append(first)

    Writer.put = counted  # type: ignore[method-assign]
    work = lambda folder: make(root, folder)  # noqa: E731
    Store(root / "store").ensure("encode", {}, [], work, resumes=True, together=True, label="encode")
    print(len(windows))


MAIN = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
import test_encode
test_encode.main(Path(sys.argv[2]), *sys.argv[3:])
"""


def command(root: Path, *more: str) -> list[str]:
    """Return the command of a process that runs `main`."""
    paths = ":".join([str(Path(__file__).parent), *sys.path])
    return [sys.executable, "-c", MAIN, paths, str(root), *more]


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
    folder = root / "alone"
    folder.mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make(root, folder)
    torch.set_num_threads(threads)
    return contents(folder)


def stored(root: Path) -> Path:
    """Return the only folder of vectors in the store."""
    (entry,) = (root / "store" / "encode").glob("*/entry.json")
    return entry.parent


@pytest.mark.slow
def test_four_processes_are_one_bit_for_bit(root: Path) -> None:
    """Each process embeds a share of the windows, and the files equal those of one process."""
    processes = launch(command(root), 4)
    for process in processes:
        assert process.returncode == 0, processes
    shares = sorted(int(process.stdout) for process in processes)
    assert sum(shares) == WINDOWS
    assert shares[-2] > 0, "at least two processes have a share"
    assert f"{TEXTS}/{TEXTS} texts" in processes[0].stderr, "rank 0 counts the other ranks' texts"
    assert contents(stored(root)) == alone(root)
    vectors = Vectors.open(stored(root))
    assert len(vectors) == TEXTS
    ranges = np.ptp(vectors.dense(0, TEXTS), axis=0)
    assert ranges.min() > 0


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(root: Path) -> None:
    killed = subprocess.run(command(root, "killed"), capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = subprocess.run(command(root), capture_output=True, text=True)
    assert int(resumed.stdout) == WINDOWS - 3, "the windows that were finished are not done again"
    assert "encode: resuming, an earlier run was cut short" in resumed.stderr
    assert contents(stored(root)) == alone(root)


@pytest.fixture
def two_threads() -> Iterator[None]:
    usual_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(usual_threads)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_threads_change_no_bit(
    kind: Literal["query", "passage"],
    precision: ResolvedPrecision,
    root: Path,
    two_threads: None,
    monkeypatch: pytest.MonkeyPatch,
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
        folder = root / name
        folder.mkdir()
        write_vectors(folder, model, vocabulary, source, kind=kind, max_length=40, precision=precision)
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
        dense = torch.zeros(len(ids), 8)
        terms = torch.ones(len(ids), model.words)
        return Embeddings(dense, terms)

    monkeypatch.setattr(Encoder, "forward", failing)
    source = TokenisedTexts.open(root / "texts")
    folder = root / "broken"
    folder.mkdir()
    with pytest.raises(error):
        write_vectors(folder, model, vocabulary, source, kind="passage", max_length=40)
    assert len(batch_sizes) < 12, "of more than 200 batches"
    assert torch.get_num_threads() == 2
    assert not (folder / "manifest.json").exists()


def test_a_gpu_stands_in_the_key_of_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window begun on a CPU is never finished on a GPU, whose rounding differs."""
    monkeypatch.setattr(embedding, "choose_device", lambda: torch.device("cpu"))
    assert embedding.recipe() == {"windows": 8192, "revision": embedding.REVISION}
    monkeypatch.setattr(embedding, "choose_device", lambda: torch.device("cuda", 1))
    assert embedding.recipe()["device"] == "cuda"


@pytest.mark.parametrize(
    ("choice", "enabled", "first"),
    [
        ("auto", {"flash", "mem_efficient", "math"}, SDPBackend.FLASH_ATTENTION),
        ("cudnn", {"cudnn", "flash", "mem_efficient", "math"}, SDPBackend.CUDNN_ATTENTION),
        ("efficient", {"mem_efficient", "math"}, SDPBackend.EFFICIENT_ATTENTION),
        ("math", {"math"}, SDPBackend.MATH),
    ],
)
def test_kernels_of_attention_are_chosen_on_a_gpu(choice: Attention, enabled: set[str], first: SDPBackend) -> None:
    before = enabled_kernels()
    with embedding.attention_kernels(torch.device("cpu"), choice):
        assert enabled_kernels() == before
    with embedding.attention_kernels(torch.device("cuda"), choice):
        assert enabled_kernels() == enabled
        assert torch._C._get_sdp_priority_order()[0] == first.value
    assert enabled_kernels() == before


def enabled_kernels() -> set[str]:
    """Return the names of the kernels of attention that torch may use on a GPU."""
    names = ("cudnn", "flash", "mem_efficient", "math")
    return {name for name in names if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()}


def test_a_gpus_kernel_of_attention_stands_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "choose_device", lambda: torch.device("cpu"))
    on_cpu = embedding.recipe("cudnn")
    assert on_cpu == embedding.recipe() == {"windows": 8192, "revision": 2}
    monkeypatch.setattr(embedding, "choose_device", lambda: torch.device("cuda"))
    assert embedding.recipe("cudnn") == {**on_cpu, "device": "cuda", "attention": "cudnn"}


def test_a_kernel_of_attention_changes_no_bit_on_a_processor(root: Path) -> None:
    model, vocabulary = encoder(root / "base")
    source = TokenisedTexts.open(root / "texts")
    for name, attention in CHOICES.items():
        (root / name).mkdir()
        write_vectors(root / name, model, vocabulary, source, kind="passage", max_length=40, attention=attention)
    assert contents(root / "automatic") == contents(root / "by cuDNN") == contents(root / "by hand")


CHOICES: dict[str, Attention] = {"automatic": "auto", "by cuDNN": "cudnn", "by hand": "math"}
