"""Where the store lies: full disks, folders that cannot be written, and the default root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from store_stages import Maker

from retrobench.errors import RetrobenchError
from retrobench.store.store import Store, default_root

ON_A_DISK = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from retrobench.errors import RetrobenchError
from retrobench.store import Store

def text(folder): (folder / "a.txt").write_text("x" * 1_000_000)
def array(folder): np.save(folder / "a.npy", np.zeros(1_000_000))
def tensors(folder): save_file({"a": np.zeros(1_000_000)}, folder / "a.safetensors")
def unrelated(folder): raise ValueError("not the disk")

try:
    store = Store(Path(sys.argv[1]) / "store")
except RetrobenchError as error:
    sys.exit(print(error))
for make, resumes in [(text, False), (array, False), (unrelated, False), (array, True), (tensors, True)]:
    try:
        store.ensure(make.__name__, {}, [], make, resumes=resumes)
    except (RetrobenchError, ValueError) as error:
        print(*sorted(p.suffix for p in (store.root / make.__name__).iterdir()), error)
"""


def on_a_disk(options: str, tmp_path: Path) -> list[str]:
    """Return the output of `ON_A_DISK` with a small memory disk that no other process sees."""
    if shutil.which("unshare") is None:
        pytest.skip("needs util-linux's unshare to mount a small disk")
    inside = f'mount -t tmpfs -o {options} tmpfs "$0" && echo mounted && exec "$@"'
    run = ["sh", "-c", inside, str(tmp_path), sys.executable, "-W", "error", "-c", ON_A_DISK, str(tmp_path)]
    result = subprocess.run(["unshare", "-rm", *run], text=True, capture_output=True)
    if not result.stdout.startswith("mounted"):
        pytest.skip(f"a small disk cannot be mounted here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[1:]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    lines = on_a_disk("size=256k", tmp_path)
    full = f"could not write to the store {tmp_path}/store, where 0 bytes are free"
    mend = "Free space there and run the same command again, or name another disk with --store DIR."
    output = re.sub(r"and \d+ written", "and few written", "\n".join(lines))
    assert output.split("\n") == [
        f".lock The disk is full: text {full} ([Errno 28] No space left on device). {mend}",
        f".lock The disk is full: array {full} (1000000 requested and few written). {mend}",
        ".lock not the disk",
        f".lock .partial The disk is full: array {full} (1000000 requested and few written). {mend}",
        f".lock .partial The disk is full: tensors {full} "
        f"(Error while serializing: I/O error: No space left on device (os error 28)). {mend}",
    ]


NEXT = "Name a folder that can be written with --store DIR, or set RETROBENCH_HOME."


def unusable(root: Path, reason: str) -> str:
    """Return the error about a folder that cannot hold a store."""
    return f"The store {root} cannot be used: {reason}. {NEXT}"


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    lines = on_a_disk("ro", tmp_path)
    assert lines == [unusable(tmp_path / "store", "Read-only file system")]


def test_a_file_where_the_store_or_a_stage_should_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    stage = tmp_path / "score"
    file.write_text("mine")
    stage.write_text("mine")
    with pytest.raises(RetrobenchError, match=re.escape(unusable(file, "it is a file"))):
        Store(file)
    with pytest.raises(RetrobenchError, match=re.escape(unusable(file / "below", "Not a directory"))):
        Store(file / "below")
    with pytest.raises(RetrobenchError, match=re.escape(unusable(stage, "it is a file"))):
        Store(tmp_path).ensure("score", {}, [], Maker())
    assert file.read_text() == "mine"
    assert stage.read_text() == "mine"


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETROBENCH_HOME", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("RETROBENCH_HOME")
    assert default_root() == Path.home() / ".cache" / "retrobench"
