"""Entries that are damaged, cut short or made by two processes are made whole, once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_stages import SETTINGS, Maker, names

from retrobench.store import store as store_module
from retrobench.store.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(store_module, "say", lambda text, explained="": lines.append(explained or text))
    return lines


def suffixes(folder: Path) -> list[str]:
    """Return the suffixes of the names in a folder."""
    return [Path(name).suffix for name in names(folder)]


def flip(path: Path) -> None:
    """Change a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BROKEN = "entry.json is missing or broken"

DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "flipped": ("model.bin", flip, "model.bin does not match its checksum"),
    "short": ("model.bin", lambda file: file.write_text("we"), "model.bin has 2 bytes where 7 were written"),
    "missing": ("deep/ids.txt", Path.unlink, "deep/ids.txt is missing"),
    "added": ("other.bin", Path.touch, "other.bin was added"),
    "entry": ("entry.json", Path.unlink, BROKEN),
    "entry flipped": ("entry.json", flip, BROKEN),
    "entry empty": ("entry.json", lambda file: file.write_text(""), BROKEN),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again(damage: str, root: Path, said: list[str]) -> None:
    make = Maker()
    artifact = Store(root).ensure("pretrain", SETTINGS, [], make)
    name, break_file, fault = DAMAGE[damage]
    break_file(artifact.path / name)
    repaired = Store(root).ensure("pretrain", SETTINGS, [], make)
    assert said[1] == f"pretrain: {artifact.key[:8]} is damaged and is made again ({fault})"
    assert make.calls == 2
    assert not repaired.cached
    assert repaired.key == artifact.key
    assert (repaired.path / "model.bin").read_text() == "weights"
    assert names(root / "pretrain") == [artifact.key, f"{artifact.key}.lock"]
    assert Store(root).ensure("pretrain", SETTINGS, [], make).cached


def test_an_entry_copied_under_another_key_is_damaged(root: Path, said: list[str]) -> None:
    first = Store(root).ensure("score", {"k": 1}, [], Maker())
    second = Store(root).ensure("score", {"k": 2}, [], Maker())
    shutil.rmtree(second.path)
    shutil.copytree(first.path, second.path)
    repaired = Store(root).ensure("score", {"k": 2}, [], Maker())
    assert not repaired.cached
    assert said[-1].endswith("is made again (entry.json describes another entry)")


def test_one_store_verifies_once(root: Path, said: list[str]) -> None:
    artifact = Store(root).ensure("score", {}, [], Maker())
    (artifact.path / ".DS_Store").touch()  # a desktop's file is no damage
    store = Store(root)
    assert store.ensure("score", {}, [], Maker()).cached
    flip(artifact.path / "model.bin")
    assert store.ensure("score", {}, [], Maker()).cached
    shutil.rmtree(artifact.path)
    assert not store.ensure("score", {}, [], Maker()).cached
    assert store.ensure("score", {}, [], Maker()).cached
    assert said[-1] == f"score: cached {artifact.key[:8]} (made in this run)"


RESUMING = "resuming, an earlier run was cut short"


@pytest.mark.parametrize(
    ("resumes", "suffixes_after_failure", "resumed_files", "message"),
    [(False, [".lock"], [], "new (first time)"), (True, [".lock", ".partial"], ["checkpoint"], RESUMING)],
    ids=["starts again", "resumes"],
)
def test_an_exception_passes_through(
    resumes: bool,
    suffixes_after_failure: list[str],
    resumed_files: list[str],
    message: str,
    root: Path,
    said: list[str],
) -> None:
    def fail(folder: Path) -> None:
        (folder / "checkpoint").touch()
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"):
        Store(root).ensure("score", {}, [], fail, resumes=resumes)
    assert suffixes(root / "score") == suffixes_after_failure
    make = Maker()
    Store(root).ensure("score", {}, [], make, resumes=resumes)
    assert make.files == resumed_files
    assert said[1] == f"score: {message}"


CHILD = """
import sys, time
from pathlib import Path
from retrobench.core import set_verbosity
from retrobench.store import Store

set_verbosity(2)
root, go, resumes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"

def make(folder):
    print("found", *sorted(path.name for path in folder.iterdir()), flush=True)
    (folder / "checkpoint").write_text("half")
    while not go.exists():
        time.sleep(0.01)

print("cached" if Store(root).ensure("pretrain", {}, [], make, resumes=resumes).cached else "made")
"""


def child(root: Path, resumes: bool = False) -> subprocess.Popen[str]:
    """Start a process that ensures an entry, and finishes it when the file `go` exists."""
    go = root.with_name("go")
    command = [sys.executable, "-W", "error", "-c", CHILD, str(root), str(go), str(resumes)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("resumes", "output", "message"),
    [(False, "found\nmade\n", "new (first time)"), (True, "found checkpoint\nmade\n", RESUMING)],
    ids=["starts again", "resumes"],
)
def test_a_killed_process_resumes_or_starts_again(resumes: bool, output: str, message: str, root: Path) -> None:
    process = child(root, resumes)
    assert process.stdout and process.stdout.readline() == "found\n"
    while not list(root.glob("pretrain/*.partial/checkpoint")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert suffixes(root / "pretrain") == [".holder", ".lock", ".partial"]
    root.with_name("go").touch()
    second_process = child(root, resumes)
    assert second_process.communicate() == (output, f"pretrain: {message}\n")
    assert suffixes(root / "pretrain") == ["", ".lock"]


def test_two_processes_make_an_entry_once(root: Path) -> None:
    first = child(root)
    assert first.stdout and first.stdout.readline() == "found\n"
    os.kill(first.pid, signal.SIGSTOP)
    second = child(root)
    assert second.stderr
    waits = second.stderr.readline()
    assert waits.startswith("pretrain: waits for another process that is making ")
    assert waits.endswith(f", which is stopped: `kill -CONT {first.pid}` lets it go on\n")
    os.kill(first.pid, signal.SIGCONT)
    root.with_name("go").touch()
    second_output, second_errors = second.communicate()
    first_output, _ = first.communicate()
    assert first_output == "made\n"
    assert second_output == "cached\n"
    short_key = waits.split(" is making ")[1][:8]
    assert f", held by pid {first.pid} on {socket.gethostname()} since 20" in waits
    assert second_errors.startswith(f"pretrain: cached {short_key} (same settings and sources, made 20")
