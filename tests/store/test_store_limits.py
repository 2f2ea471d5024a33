"""Full disks, limits of a process, read-only stores, links and modes: one line, and the same command recovers."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from store_stages import Maker

from retrobench.core import describe_limit
from retrobench.errors import RetrobenchError
from retrobench.store import Store

STAGES = """
import resource, subprocess, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from retrobench.errors import RetrobenchError
from retrobench.store import Store

def text(folder): (folder / "a.txt").write_text("x" * 60_000)
def array(folder): np.save(folder / "a.npy", np.zeros(10_000))
def tensors(folder): save_file({"a": np.zeros(10_000)}, folder / "a.safetensors")
def many(folder):
    for number in range(40): (folder / str(number)).write_text("x" * 1000)
def handles(folder): files = [open(folder / str(number), "w") for number in range(60)]
def memory(folder): (folder / "a").write_bytes(bytes(3_000_000_000)[:10])

def run(root, makes):
    failed = []
    for make in makes:
        try:
            Store(root).ensure(make.__name__, {}, [], make, resumes=make is array)
        except RetrobenchError as error:
            failed.append(f"{make.__name__}: {error}")
    return failed
"""

SIZES = """
root = Path(sys.argv[1])
root.mkdir()
for size in range(8, 808, 40):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(root)], check=True)
    failed = run(root, (text, array, tensors, many))
    subprocess.run(["mount", "-o", "remount,size=4m", str(root)], check=True)
    again = run(root, (text, array, tensors, many))
    entries = [path for path in root.glob("*/*") if path.is_dir()]
    print(size, len(failed), len(again), len(entries), sum("The disk is full" in line for line in failed))
    subprocess.run(["umount", str(root)], check=True)
"""

LIMITS = """
root = Path(sys.argv[1])
kinds = {"file": (resource.RLIMIT_FSIZE, 50_000, text), "open": (resource.RLIMIT_NOFILE, 40, handles),
         "memory": (resource.RLIMIT_AS, 2_000_000_000, memory)}
limit, value, make = kinds[sys.argv[2]]
soft, hard = resource.getrlimit(limit)
resource.setrlimit(limit, (value, hard))
failed = run(root, (make,))
resource.setrlimit(limit, (soft, hard))
print(*failed, run(root, (make,)), sep="\\n")
"""


def python(code: str, *words: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, text=True, capture_output=True, timeout=300)


def test_a_disk_of_twenty_sizes(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs util-linux's unshare to mount a small disk")
    result = python(STAGES + SIZES, tmp_path / "store", prefix=("unshare", "-rm"))
    if "mount" in result.stderr:
        pytest.skip(f"a small disk cannot be mounted here: {result.stderr.strip()[-200:]}")
    assert result.returncode == 0, result.stderr
    lines = [tuple(map(int, line.split())) for line in result.stdout.splitlines()]
    assert len(lines) == 20
    assert lines[0][1] == 4, "nothing fits on the smallest disk"
    assert lines[-1][1] == 0, "everything fits on the largest"
    for _, failed, again, entries, full in lines:
        assert (failed, again, entries) == (full, 0, 4), "one line each, and all four once there is room"


KINDS = {
    "file": "A file is larger than this process may write: text could not write",
    "open": "Too many files are open: handles could not write",
    "memory": "The memory does not suffice: memory could not write",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_of_the_process_is_one_line(kind: str, tmp_path: Path) -> None:
    result = python(STAGES + LIMITS, tmp_path / "store", kind)
    assert result.returncode == 0, result.stderr
    first, again = result.stdout.splitlines()
    assert KINDS[kind] in first and "run the same command again" in first
    assert again == "[]"


def test_other_exceptions_are_no_limits() -> None:
    assert describe_limit(ValueError("x")) is None
    assert describe_limit(PermissionError(13, "Permission denied")) is None


READ_ONLY = """
import sys
from pathlib import Path
from retrobench.errors import RetrobenchError
from retrobench.store import Store

def fail(folder): raise AssertionError("made again")
store = Store(Path(sys.argv[1]))
artifact = store.ensure("pretrain", {"a": 1}, [], fail)
print(artifact.cached, (artifact.path / "model.bin").read_text())
for stage, settings in (("pretrain", {"a": 2}), ("score", {})):
    try:
        store.ensure(stage, settings, [], fail)
    except RetrobenchError as error:
        print(error)
"""


def test_a_complete_store_on_a_read_only_mount(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs util-linux's unshare to mount a folder")
    root = tmp_path / "store"
    Store(root).ensure("pretrain", {"a": 1}, [], Maker())
    inside = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && echo mounted && exec "$@"'
    shell = ("unshare", "-rm", "sh", "-c", inside, str(root))
    result = python(READ_ONLY, root, prefix=shell)
    if not result.stdout.startswith("mounted"):
        pytest.skip(f"a folder cannot be mounted here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    cached, other, absent = result.stdout.splitlines()[1:]
    assert cached == "True weights"
    for line in (other, absent):
        assert "cannot be used: Read-only file system" in line


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_modes_follow_the_umask(umask: int, tmp_path: Path) -> None:
    code = STAGES + "import os; os.umask(int(sys.argv[2])); print(run(Path(sys.argv[1]), (tensors,)))"
    result = python(code, tmp_path / "store", umask)
    assert result.stdout == "[]\n", result.stderr
    (weights,) = (tmp_path / "store").glob("*/*/*.safetensors")
    assert stat.S_IMODE(weights.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(weights.with_name("entry.json").stat().st_mode) == 0o666 & ~umask


@pytest.fixture
def linked(tmp_path: Path) -> tuple[Path, Path]:
    """Return an entry that is a link, and the folder on another disk that it leads to."""
    artifact = Store(tmp_path / "store").ensure("pretrain", {}, [], Maker())
    other = tmp_path / "other"
    shutil.move(artifact.path, other)
    artifact.path.symlink_to(other)
    return artifact.path, other


def test_a_linked_entry_is_read(linked: tuple[Path, Path]) -> None:
    entry, _ = linked
    make = Maker()
    assert Store(entry.parents[1]).ensure("pretrain", {}, [], make).cached
    assert make.calls == 0


def test_a_damaged_target_is_left_where_it_is(linked: tuple[Path, Path]) -> None:
    entry, other = linked
    (other / "model.bin").write_text("damaged")
    make = Maker()
    assert not Store(entry.parents[1]).ensure("pretrain", {}, [], make).cached
    assert make.calls == 1
    assert not entry.is_symlink() and (entry / "model.bin").read_text() == "weights"
    assert (other / "model.bin").read_text() == "damaged", "the target is nobody's to remove"
    assert sorted(path.suffix for path in entry.parent.iterdir()) == ["", ".lock"]


def test_a_linked_partial_is_refused(tmp_path: Path) -> None:
    artifact = Store(tmp_path / "store").ensure("pretrain", {}, [], Maker())
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    shutil.rmtree(artifact.path)
    Path(f"{artifact.path}.partial").symlink_to(other)
    for resumes in (False, True):
        with pytest.raises(RetrobenchError, match=r"\.partial is a link, .* Remove the link\."):
            Store(tmp_path / "store").ensure("pretrain", {}, [], Maker(), resumes=resumes)
    assert os.listdir(other) == ["mine"]
