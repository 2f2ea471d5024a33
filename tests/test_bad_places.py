"""Places that a run cannot use as they are: damaged rows, a file in the place of the store, a full disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny

from retrobench.leaderboard import read

COMMAND = [sys.executable, "-c", "from retrobench.cli import main; main()"]


@pytest.fixture
def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tiny.Tiny:
    """Return a track in the working directory that a test may damage."""
    tiny.make(tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny.TRACK.format(base="base", data="data"))
    monkeypatch.chdir(tmp_path)
    return tiny.Tiny(Path("data"), Path("base"), Path("tiny.toml"), Path("store"), Path("boards"))


def call(words: Sequence[str], *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*prefix, *COMMAND, *words], capture_output=True, text=True, timeout=600)


def test_damaged_rows_are_named_and_left_out(track: tiny.Tiny) -> None:
    rows = track.boards / "tiny" / "rows.jsonl"
    rows.parent.mkdir(parents=True)
    damaged = b'{"track": "tiny"\n\xff\n'
    rows.write_bytes(damaged)
    result = call(track.options("bm25"))
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    for number in (1, 2):
        prefix = f"{rows}:{number}: left out, because it is not JSON ("
        assert any(line.startswith(prefix) for line in lines)
    content = rows.read_bytes()
    assert content.startswith(damaged), "nothing is lost that somebody may restore"
    (row,) = read(rows.parent)
    assert row.entrant == "bm25"


def test_a_file_where_the_store_should_be(track: tiny.Tiny) -> None:
    track.store.write_text("mine")
    result = call(track.options("mlm"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: The store {track.store.absolute()} cannot be used: it is a file. "
        "Name a folder that can be written with --store DIR, or set RETROBENCH_HOME.\n"
    )
    assert track.store.read_text() == "mine" and not track.boards.exists()


def test_a_full_disk(track: tiny.Tiny) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs util-linux's unshare to mount a small disk")
    track.store.mkdir()
    # The tokens fit on the disk. The weights of 40 kB and their moments do not. The files are listed before unmounting.
    inside = 'mount -t tmpfs -o size=128k tmpfs store && echo mounted && "$@"; code=$?; find store -type d; exit $code'
    result = call(track.options("mlm"), "unshare", "-rm", "sh", "-c", inside, "sh")
    if not result.stdout.startswith("mounted"):
        pytest.skip(f"a small disk cannot be mounted here: {result.stderr.strip()}")
    assert result.returncode == 2, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"Error: The disk is full: pretrain could not write to the store {track.store.absolute()}")
    assert last.endswith("run the same command again, or name another disk with --store DIR.")
    assert "Traceback" not in result.stderr
    folders = [Path(line) for line in result.stdout.splitlines()[1:]]
    assert {path.parent.name for path in folders if len(path.parts) == 3 and not path.suffix} == {"tokenise"}
    assert not track.boards.exists()
