"""Atomic writes, also by a process that is killed while it writes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrobench.core import atomic_write, file_hash, move, sync


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("h\u00e9\n", b"h\xc3\xa9\n"),
        (b"\0\r\n", b"\0\r\n"),
        (["a\n", b"\xff", "\u00e9"], b"a\n\xff\xc3\xa9"),
        (iter(["a", "b"]), b"ab"),
        ("", b""),
        ([], b""),
    ],
)
def test_content_is_replaced(content: str | bytes | list[str | bytes], expected: bytes, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("a longer text that was there before")
    atomic_write(file, content)
    assert file.read_bytes() == expected
    assert names(tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize("old", [None, "old"])
def test_an_exception_leaves_the_old_content(old: str | None, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    if old is not None:
        file.write_text(old)

    def chunks() -> Iterator[str]:
        yield "half"
        raise KeyError("no such row")

    with pytest.raises(KeyError, match="no such row"):
        atomic_write(file, chunks())
    if old is None:
        assert names(tmp_path) == []
    else:
        assert names(tmp_path) == ["rows.jsonl"]
        assert file.read_text() == old


WRITER = """
import sys, time
from pathlib import Path
from retrobench.core import atomic_write

def chunks():
    yield b"n" * 1_000_000  # more than the buffer holds
    print("half", flush=True)
    time.sleep(600)

atomic_write(Path(sys.argv[1]), chunks())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_writer_leaves_the_old_content_and_the_next_one_succeeds(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    old = b"o" * 1_000_000
    atomic_write(file, old)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert file.read_bytes() == old
    (partial,) = set(tmp_path.iterdir()) - {file}
    assert partial.stat().st_size >= 900_000, "killed while it wrote"
    atomic_write(file, "new")
    assert file.read_text() == "new"
    assert names(tmp_path) == ["rows.jsonl"]


WRITERS = """
import sys
from pathlib import Path
from retrobench.core import atomic_write

for number in range(80):
    content = sys.argv[2] * (1 + number * 370 % 5000)
    atomic_write(Path(sys.argv[1]), [content[:1000], content[1000:]])
    text = Path(sys.argv[1]).read_text()
    assert set(text) in ({"a"}, {"b"}, {"c"}), "a mixture"
"""


def test_processes_that_write_one_file_take_turns(tmp_path: Path) -> None:
    file = tmp_path / "curve.json"
    commands = [[sys.executable, "-c", WRITERS, str(file), letter] for letter in "abc"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert names(tmp_path) == ["curve.json"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record calls to the disk: `sync` with the written inode, `replace` with the renamed inode."""
    recorded: list[tuple[str, int]] = []
    fsync = os.fsync
    replace = os.replace

    def synced(handle: int) -> None:
        recorded.append(("sync", os.fstat(handle).st_ino))
        fsync(handle)

    def replaced(source: Path, target: Path) -> None:
        recorded.append(("replace", source.stat().st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return recorded


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(
    calls: list[tuple[str, int]], tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    atomic_write(file, "row\n")
    file_inode = file.stat().st_ino
    folder_inode = tmp_path.stat().st_ino
    assert calls == [("sync", file_inode), ("replace", file_inode), ("sync", folder_inode)]


def test_a_folder_is_synced_whole_and_moved(calls: list[tuple[str, int]], tmp_path: Path) -> None:
    partial = tmp_path / "key.partial"
    inner = partial / "qrels"
    file = inner / "test.tsv"
    inner.mkdir(parents=True)
    file.write_text("1\t2\t1\n")
    sync(partial)
    assert set(calls) == {
        ("sync", file.stat().st_ino),
        ("sync", inner.stat().st_ino),
        ("sync", partial.stat().st_ino),
    }

    calls.clear()
    moved = tmp_path / "key"
    move(partial, moved)
    assert (moved / "qrels" / "test.tsv").read_text() == "1\t2\t1\n"
    assert calls == [("replace", moved.stat().st_ino), ("sync", tmp_path.stat().st_ino)]


def test_a_file_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc" * 100_000)
    assert file_hash(file) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert file_hash(file, "md5") == hashlib.md5(b"abc" * 100_000).hexdigest()
