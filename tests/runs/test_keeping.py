"""A store of ten runs, three of them abandoned: listed, pruned, exported, imported and verified."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from leaderboard_rows import BERT, DATASET, facts, mean, row
from store_stages import Maker

from retrobench import cli
from retrobench.leaderboard import append, read
from retrobench.leaderboard.rows import folders
from retrobench.store import Store

RUNS = 10
ABANDONED = 3


class Runs(NamedTuple):
    """A store, its leaderboard, and the row of each finished run."""

    store: Path
    boards: Path
    ids: list[str]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Make ten runs from one corpus. The last three were killed in pre-training, and no row names one more entry."""
    root = tmp_path_factory.mktemp("runs")
    store = Store(root / "store")
    corpus = store.ensure("tokenise", {"corpus": "c"}, [], Maker("tokens"))
    store.ensure("tokenise", {"corpus": "unused"}, [], Maker("others"))
    ids = []
    for seed in range(RUNS):
        if seed >= RUNS - ABANDONED:
            with pytest.raises(KeyboardInterrupt):
                store.ensure("pretrain", {"seed": seed}, [corpus], kill, resumes=True)
            continue
        encoder = store.ensure("pretrain", {"seed": seed}, [corpus], Maker(f"weights {seed}"))
        score = store.ensure("score", {}, [encoder], Maker(f"scores {seed}"))
        artifacts = {"pretrain": encoder.key, f"score {DATASET}": score.key}  # the corpus is a source of the encoder
        measured = row("mlm", seed, [mean(BERT)], artifacts=artifacts, facts={DATASET: facts()})
        ids.append(append(root / "boards" / "mini", measured, {DATASET: {"MRR@10": BERT}}).id)
    return Runs(root / "store", root / "boards", ids)


def kill(folder: Path) -> None:
    (folder / "model.bin").write_text("half")
    raise KeyboardInterrupt


@pytest.fixture
def runs(original: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Return a copy that a test may change."""
    shutil.copytree(original.store.parent, tmp_path / "copy")
    # The shipped rows need nothing here, and reading them takes seconds.
    monkeypatch.setattr(folders, "track_folders", lambda leaderboard=None: [leaderboard] if leaderboard else [])
    return Runs(tmp_path / "copy" / "store", tmp_path / "copy" / "boards", original.ids)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `retrobench store`, and returns its exit code, its output and its last error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["retrobench", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        output = capsys.readouterr()
        return int(stop.value.code or 0), output.out, output.err

    return run


def names(store: Path, pattern: str) -> set[str]:
    return {path.relative_to(store).as_posix() for path in store.glob(pattern)}


Call = Callable[..., tuple[int, str, str]]


def test_a_list_says_what_made_an_entry_and_which_rows_need_it(runs: Runs, call: Call) -> None:
    code, out, _ = call("store", "list", "--store", runs.store, "--leaderboard", runs.boards, "--json")
    items = {item["item"]: item for item in json.loads(out)}
    assert code == 0
    corpus = next(item for item in items.values() if item.get("settings") == {"corpus": "c"})
    assert sorted(corpus["rows"]) == sorted(runs.ids)
    assert corpus["bytes"] > len("tokens")
    kinds = [item["kind"] for item in items.values()]
    assert (kinds.count("entry"), kinds.count("partial")) == (2 + 2 * 7, ABANDONED)
    _, text, _ = call("store", "list", "--store", runs.store, "--leaderboard", runs.boards)
    assert "mini:mlm:0, mini:mlm:1 and 5 more" in text
    locks = kinds.count("lock")
    assert locks and ".lock" not in text, "an empty lock for each entry is no line of the table"
    assert f"{len(items) - locks} items and {locks} locks, " in text
    _, sizes, _ = call("store", "du", "--store", runs.store, "--json")
    assert json.loads(sizes)["score"]["entries"] == 7


def test_prune_removes_abandoned_work_and_what_no_row_needs(runs: Runs, call: Call) -> None:
    options = ("--store", runs.store, "--leaderboard", runs.boards)
    before = names(runs.store, "*/*")
    code, out, err = call("store", "prune", "--dry-run", *options)
    assert code == 0 and "would be removed" in out
    assert err.count("unfinished work") == ABANDONED
    assert err.count("no row needs it") == 1
    assert err.count("lock") == 1, "locks are one line"
    assert names(runs.store, "*/*") == before
    code, out, _ = call("store", "prune", *options)
    assert code == 0
    left = names(runs.store, "*/*")
    assert len(left) == 1 + 2 * 7
    assert not {name for name in left if name.endswith((".partial", ".lock"))}
    assert call("store", "verify", "--store", runs.store)[:2] == (0, "15 entries, 0 DIFFER.\n")
    assert "0 items" in call("store", "prune", *options)[1]


def test_nothing_that_a_row_needs_goes_without_force(runs: Runs, call: Call) -> None:
    options = ("--store", runs.store, "--leaderboard", runs.boards)
    (name, *_) = sorted(name for name in names(runs.store, "score/*") if "." not in name)
    code, _, err = call("store", "prune", name, *options)
    assert code == 2 and "is needed by mini:mlm:" in err
    code, _, err = call("store", "prune", "score/none", *options)
    assert code == 2 and "Unknown item of the store 'score/none'" in err
    assert call("store", "prune", name, "--force", *options)[0] == 0
    assert not (runs.store / name).exists()
    code, _, err = call("store", "prune", "--store", runs.store, "--leaderboard", runs.store)
    assert code == 2 and "No row needs any entry" in err


WORK = """
import sys, time
from pathlib import Path
from retrobench.store import Store
def work(folder):
    print("works", flush=True)
    time.sleep(60)
Store(Path(sys.argv[1])).ensure("pretrain", {"seed": "now"}, [], work, resumes=True)
"""


def test_prune_leaves_the_work_of_a_process(runs: Runs, call: Call) -> None:
    process = subprocess.Popen([sys.executable, "-c", WORK, str(runs.store)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        _, _, err = call("store", "prune", "--store", runs.store, "--leaderboard", runs.boards)
        assert err.count("a process works on it") == 3, "its partial, its lock and the note of its holder"
        assert len(names(runs.store, "pretrain/*.partial")) == 1
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_row_moves_to_another_machine(runs: Runs, call: Call, tmp_path: Path) -> None:
    archive = tmp_path / "row.tar"
    here = ("--store", runs.store, "--leaderboard", runs.boards)
    there = ("--store", tmp_path / "there", "--leaderboard", tmp_path / "boards")
    code, out, err = call("store", "export", runs.ids[3], "--to", archive, *here)
    assert code == 0 and "mini:mlm:3 and 3 entries" in out, err
    code, out, err = call("store", "import", archive, *there)
    assert code == 0 and "3 of its 3 entries are new" in out, err
    (moved,) = read(tmp_path / "boards" / "mini")
    assert moved.id == runs.ids[3]
    assert (tmp_path / "boards" / "mini" / moved.per_query).is_file()
    assert call("store", "verify", "--store", tmp_path / "there")[:2] == (0, "3 entries, 0 DIFFER.\n")
    assert "0 of its 3 entries are new" in call("store", "import", archive, *there)[1]
    assert len(read(tmp_path / "boards" / "mini")) == 1


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 4 if kind == tarfile.REGTYPE else 0
    return info, b"evil"


STRANGE = {
    "above": member("store/a/b/../../../../evil"),
    "absolute": member("/evil"),
    "beside": member("elsewhere/evil"),
    "a link": member("store/a/b/evil", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": member("store/a/b/evil", tarfile.LNKTYPE, "../evil"),
    "a device": member("store/a/b/evil", tarfile.CHRTYPE),
    "no row": member("store/a/b/model.bin"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_an_archive_never_leaves_its_folder(kind: str, call: Call, tmp_path: Path) -> None:
    archive = tmp_path / "row.tar"
    info, content = STRANGE[kind]
    with tarfile.open(archive, "w") as tar:
        tar.addfile(info, io.BytesIO(content))
    code, _, err = call("store", "import", archive, "--store", tmp_path / "there", "--leaderboard", tmp_path / "boards")
    assert code == 2
    assert len(err.splitlines()) == 1 and "Error: " in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["row.tar", "there"]


def test_a_damaged_archive_leaves_nothing(runs: Runs, call: Call, tmp_path: Path) -> None:
    archive = tmp_path / "row.tar"
    call("store", "export", runs.ids[0], "--to", archive, "--store", runs.store, "--leaderboard", runs.boards)
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"weights 0", b"weights 1"))
    there = ("--store", tmp_path / "there", "--leaderboard", tmp_path / "boards")
    code, _, err = call("store", "import", archive, *there)
    assert code == 2 and "model.bin does not match its checksum" in err
    for broken in (content[:700], b"no tar", b""):
        archive.write_bytes(broken)
        assert call("store", "import", archive, *there)[0] == 2
    assert list((tmp_path / "there").iterdir()) == [] and not (tmp_path / "boards").exists()
