"""Encoding at work: several processes, kills, and memory, each in real processes on one thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from retrobench import embedding
from retrobench.experiment import Representations
from retrobench.representation import Encoder
from retrobench.stages.encode import write
from retrobench.stages.start import load_backbone
from retrobench.store import Store
from retrobench.tokens import TokenisedTexts
from retrobench.vectors import Vectors, Writer

TEXTS, WINDOW = 600, 32


def encoder(base: Path) -> tuple[Encoder, object]:
    """On tiny's base, with weights that tell texts apart; the same in every process."""
    backbone, vocabulary = load_backbone(base)
    torch.manual_seed(2)
    for name, parameter in backbone.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.3)
    sizes = Representations(dense=8, terms=6)
    made = Encoder(backbone, "cls+terms", sizes)
    assert made.projection is not None
    torch.nn.init.normal_(made.projection.weight)
    return made, vocabulary


def texts(folder: Path, count: int = TEXTS) -> None:
    """Token ids in any number, of lengths up to 60."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    lengths = np.stack([np.zeros(count, np.int64), draw.integers(0, 60, count)], 1)
    total = int(lengths.sum())
    draw.integers(5, 60, total, dtype=np.uint16).tofile(folder / "tokens.bin")
    np.ones(total, np.bool_).tofile(folder / "starts.bin")
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "offsets.npy", np.concatenate([[0], lengths.sum(1).cumsum()]))
    (folder / "ids.json").write_text("[" + ", ".join(f'"d{row}"' for row in range(count)) + "]")
    (folder / "texts.json").write_text('{"dtype": "uint16"}')


def make(root: Path, folder: Path, joins: bool = False) -> dict[str, float]:
    made, vocabulary = encoder(root / "base")
    source = TokenisedTexts.open(root / "texts")
    return write(folder, made, vocabulary, source, "passage", 40, False, {}, "encode", joins)  # type: ignore[arg-type]


def encoded(root: Path) -> Path:
    """The entry of a store, made by whoever comes first and helped by the others."""

    def work(folder: Path, joins: bool = False) -> dict[str, float]:
        return make(root, folder, joins)

    store = Store(root / "store")
    return store.ensure("encode", {}, [], work, resumes=True, label="encode", helps=embedding.helper(work)).path


def main(root: Path, name: str) -> None:
    """One of several processes; says how many windows it did."""
    torch.set_num_threads(1)
    embedding.WINDOW = WINDOW
    put, done = Writer.put, []

    def counted(self: Writer, first: int, *parts: object) -> None:
        if name == "killed" and len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)  # as a larger model would
        put(self, first, *parts)  # type: ignore[arg-type]
        done.append(first)

    Writer.put = counted  # type: ignore[method-assign]
    encoded(root)
    print(len(done))


def process(root: Path, name: str = "") -> subprocess.Popen[str]:
    code = "import sys; sys.path[:0] = sys.argv[3:]; from pathlib import Path; import test_encode as t\n"
    code += "t.main(Path(sys.argv[1]), sys.argv[2])"
    words = [sys.executable, "-c", code, str(root), name, str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embedding, "WINDOW", WINDOW)
    tiny.write_base(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    texts(tmp_path / "texts")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "entry.json"}


def alone(root: Path) -> dict[str, bytes]:
    """What a single process makes."""
    (root / "alone").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make(root, root / "alone")
    torch.set_num_threads(threads)
    return contents(root / "alone")


def test_four_processes_are_one_bit_for_bit(root: Path) -> None:
    """Each does a part of the windows, and one of them the rest of the stage."""
    processes = [process(root) for _ in range(4)]
    said = [running.communicate() for running in processes]
    assert [running.returncode for running in processes] == [0] * 4, said
    shares = [int(out) for out, _ in said]
    assert sum(shares) == -(-TEXTS // WINDOW) and sorted(shares)[-2] > 0, shares
    (folder,) = (path for path in (root / "store" / "encode").iterdir() if path.is_dir())
    assert contents(folder) == alone(root)
    found = Vectors.open(folder)
    assert len(found) == TEXTS and np.ptp(found.dense(0, TEXTS), axis=0).min() > 0


def test_killed_and_started_again_it_ends_the_same(root: Path) -> None:
    first = process(root, "killed")
    assert first.wait() == -signal.SIGKILL
    again = process(root)
    out, errors = again.communicate()
    assert int(out) == -(-TEXTS // WINDOW) - 3, "the three windows that were finished are not done again"
    assert "encode: resuming, an earlier run was cut short" in errors
    (folder,) = (path for path in (root / "store" / "encode").iterdir() if path.is_dir())
    assert contents(folder) == alone(root)
