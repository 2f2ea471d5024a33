"""The store: keys, cached and damaged entries, interrupted work, full disks and messages."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrobench.core.files import tree_hash
from retrobench.core.provenance import retrobench_version
from retrobench.errors import RetrobenchError
from retrobench.store import store as store_module
from retrobench.store.store import Artifact, Store, default_root

SETTINGS: dict[str, Any] = {"steps": 100, "optimizer": {"rate": 1e-4}, "corpus": Path("docs")}
SOURCE = Artifact("tokenise", "0123456789abcdef0123", Path("nowhere"), True, {})


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def suffixes(folder: Path) -> list[str]:
    """Return the suffixes of the names in a folder."""
    return [Path(name).suffix for name in names(folder)]


class Maker:
    """A stage that writes two files and counts its calls."""

    def __init__(self, text: str = "weights") -> None:
        self.text = text
        self.calls = 0
        self.files: list[str] = []

    def __call__(self, folder: Path) -> Mapping[str, float]:
        self.calls += 1
        self.files = names(folder)
        (folder / "model.bin").write_text(self.text)
        (folder / "deep").mkdir(exist_ok=True)
        (folder / "deep" / "ids.txt").write_text("a\nb\n")
        return {"tokens_per_second": 25}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(store_module, "say", lines.append)
    return lines


def test_an_entry_is_made_once(root: Path, said: list[str]) -> None:
    make = Maker()
    first = Store(root).ensure("pretrain", SETTINGS, [SOURCE], make, code="mlm 1.0")
    second = Store(root).ensure("pretrain", SETTINGS, [SOURCE], make, code="mlm 1.0", label="mlm, seed 1")
    assert make.calls == 1
    assert not first.cached
    assert second.cached
    assert first.path == root / "pretrain" / first.key
    assert second.path == first.path
    assert (second.path / "model.bin").read_text() == "weights"
    assert second.cost == first.cost
    assert first.cost["tokens_per_second"] == 25.0
    assert 0 < first.cost["seconds"] < 10
    assert first.cost["peak_memory_bytes"] > 10_000_000
    assert said[0] == "pretrain: new (first time)"
    assert said[1].startswith(f"mlm, seed 1: cached {first.key[:8]} (same settings and sources, made 20")
    assert said[1].endswith(" in 0.0 s)")


def test_an_entry_records_its_recipe(root: Path) -> None:
    artifact = Store(root).ensure("pretrain", SETTINGS, [SOURCE], Maker(), code="mlm 1.0")
    entry = json.loads((artifact.path / "entry.json").read_text())
    assert len(artifact.key) == 20
    assert entry["key"] == artifact.key
    assert entry["stage"] == "pretrain"
    assert entry["settings"] == {"steps": 100, "optimizer": {"rate": 1e-4}, "corpus": "docs"}
    assert entry["sources"] == ["tokenise/0123456789abcdef0123"]
    assert entry["version"] == retrobench_version()
    assert entry["code"] == "mlm 1.0"
    assert entry["cost"] == artifact.cost
    # As GNU sha256sum gives them for `printf 'a\nb\n'` and `printf weights`.
    ids = "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"
    weights = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert entry["files"] == {
        "deep/ids.txt": {"sha256": ids, "bytes": 4},
        "model.bin": {"sha256": weights, "bytes": 7},
    }
    assert names(root / "pretrain") == [artifact.key, f"{artifact.key}.lock"]


OTHER = Artifact("tokenise", "f" * 20, Path("nowhere"), True, {})

CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "stage": ({"stage": "finetune"}, "first time"),
    "setting": ({"settings": SETTINGS | {"steps": 200}}, "steps 200, nearest cached has 100"),
    "inner": (
        {"settings": SETTINGS | {"optimizer": {"rate": 1}}},
        "optimizer.rate 1, nearest cached has 0.0001",
    ),
    "path": ({"settings": SETTINGS | {"corpus": Path("x")}}, 'corpus "x", nearest cached has "docs"'),
    "added": ({"settings": SETTINGS | {"seed": 1}}, "seed 1, nearest cached has none"),
    "dropped": ({"settings": {"steps": 100}}, "optimizer.rate none, nearest cached has 0.0001"),
    "type": ({"settings": SETTINGS | {"steps": "100"}}, 'steps "100", nearest cached has 100'),
    "source": ({"sources": [OTHER]}, "source 1 tokenise/ffffffff, nearest cached has tokenise/01234567"),
    "more sources": ({"sources": [SOURCE, OTHER]}, "source 2 tokenise/ffffffff, nearest cached has none"),
    "code": ({"code": "mlm 1.1"}, "code mlm 1.1, nearest cached has mlm 1.0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_ingredient_changes_the_key(change: str, root: Path, said: list[str]) -> None:
    arguments: dict[str, Any] = dict(stage="pretrain", settings=SETTINGS, sources=[SOURCE], code="mlm 1.0")
    changed, reason = CHANGES[change]
    store = Store(root)
    make = Maker()
    first = store.ensure(**arguments, make=make)
    second = store.ensure(**arguments | changed, make=make)
    assert make.calls == 2
    assert not second.cached
    assert first.key != second.key
    assert said[1] == f"{second.stage}: new ({reason})"


def test_the_version_changes_the_key(root: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "retrobench_version", lambda: "0.1")
    first = Store(root).ensure("score", {}, [], Maker())
    monkeypatch.setattr(store_module, "retrobench_version", lambda: "0.2")
    second = Store(root).ensure("score", {}, [], Maker())
    assert first.key != second.key
    assert said[1] == "score: new (retrobench 0.2, nearest cached has 0.1)"


def test_order_of_settings_and_kind_of_sequence_make_no_difference(root: Path) -> None:
    first = Store(root).ensure("score", {"a": 1, "b": (1, 2)}, [], Maker())
    second = Store(root).ensure("score", {"b": [1, 2], "a": 1}, [], Maker())
    assert second.cached
    assert first.key == second.key


def test_the_message_compares_with_the_nearest_entry(root: Path, said: list[str]) -> None:
    store = Store(root)
    store.ensure("pretrain", {"steps": 1, "rate": 0.1, "seed": 1}, [], Maker())
    store.ensure("pretrain", {"steps": 1, "rate": 0.2, "seed": 2}, [], Maker())
    store.ensure("pretrain", {"steps": 2, "rate": 0.2, "seed": 2}, [], Maker())
    store.ensure("pretrain", {"steps": 1, "rate": 0.1, "seed": 5}, [], Maker())
    assert said[-1] == "pretrain: new (seed 5, nearest cached has 1)"


@pytest.mark.parametrize("value", [{1}, np.int64(3), b"x", {1: 2}, SOURCE], ids=type)
def test_settings_without_a_json_form_are_refused(root: Path, value: object) -> None:
    settings = {"list": [{"odd": value}]}
    message = f"settings.list[0].odd is of {type(value)}, which has no"
    with pytest.raises(TypeError, match=re.escape(message)):
        Store(root).ensure("score", settings, [], Maker())


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


def test_fresh_makes_older_entries_again_once(root: Path, said: list[str]) -> None:
    old = Store(root).ensure("score", {}, [], Maker("old"))
    old_partial = root / "score" / f"{old.key}.partial"
    old_partial.mkdir()
    (old_partial / "checkpoint").touch()
    time.sleep(0.02)  # file times come from a clock that ticks every few milliseconds
    make = Maker("new")
    store = Store(root, fresh=True)

    def swap(folder: Path) -> Mapping[str, float]:
        assert (old.path / "model.bin").read_text() == "old"  # stays until the new one is finished
        return make(folder)

    assert not store.ensure("score", {}, [], swap, resumes=True).cached
    assert make.files == []
    assert store.ensure("score", {}, [], make).cached
    assert make.calls == 1
    assert (old.path / "model.bin").read_text() == "new"
    assert said[1] == f"score: made afresh, in place of {old.key[:8]}"
    assert said[2] == f"score: cached {old.key[:8]} (made in this run)"
    time.sleep(0.02)
    settings = {"by": "another process, meanwhile"}
    Store(root).ensure("score", settings, [], make)
    assert store.ensure("score", settings, [], make).cached


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


def test_a_stage_may_return_its_total_seconds(root: Path) -> None:
    cost = {"seconds": 83, "tokens_per_second": math.nan}
    artifact = Store(root).ensure("pretrain", {}, [], lambda folder: cost, resumes=True)
    assert artifact.cost == {"seconds": 83.0, "peak_memory_bytes": artifact.cost["peak_memory_bytes"]}


CHILD = """
import sys, time
from pathlib import Path
from retrobench.store import Store

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
    assert suffixes(root / "pretrain") == [".lock", ".partial"]
    root.with_name("go").touch()
    second_process = child(root, resumes)
    assert second_process.communicate() == (output, f"pretrain: {message}\n")
    assert suffixes(root / "pretrain") == ["", ".lock"]


def test_two_processes_make_an_entry_once(root: Path) -> None:
    first = child(root)
    assert first.stdout and first.stdout.readline() == "found\n"
    second = child(root)
    assert second.stderr
    waits = second.stderr.readline()
    assert waits.startswith("pretrain: waits for another process that is making ")
    root.with_name("go").touch()
    second_output, second_errors = second.communicate()
    first_output, _ = first.communicate()
    assert first_output == "made\n"
    assert second_output == "cached\n"
    short_key = waits.split()[-1]
    assert second_errors.startswith(f"pretrain: cached {short_key} (same settings and sources, made 20")


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


def test_tree_hash(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    (package / "notes.txt").write_text("not code")
    first = tree_hash([package])
    (package / "notes.txt").write_text("still not code")
    assert tree_hash([package]) == first
    copy = tmp_path / "elsewhere" / "package"
    shutil.copytree(package, copy)
    assert tree_hash([copy]) == first
    (package / "a.py").write_text("x = 2\n")
    assert tree_hash([package]) != first
    files = [package / "a.py", package / "notes.txt"]
    both = tree_hash(files)
    assert tree_hash(files[::-1]) == both
    assert tree_hash(files[:1]) != both
