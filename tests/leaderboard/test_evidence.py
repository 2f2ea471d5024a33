"""Files beside the rows are named by the hash of their content, written once, and named when they were changed."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from leaderboard_rows import BERT, DATASET, MLM, filled, row

from retrobench.config.fingerprint import fingerprint
from retrobench.core import processes
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.rows import (
    append,
    keep_per_query,
    keep_plugin,
    keep_track,
    kept_faults,
    load_per_query,
    load_track,
    missing_files,
    read,
)

VALUES = {DATASET: {"MRR@10": {"q1": 1.0, "q2": 1 / 3}, "nDCG@10": {"q2": 0.25, "q1": 0.5}}}
TRACK = {"model": {"base": "tiny"}, "pretrain": {"steps": 3, "corpus": ["a", "b"]}}
IDENTITY = "0123456789abcdef"


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder by its path."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            contents[path.relative_to(folder).as_posix()] = path.read_bytes()
    return contents


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def test_values_by_query_come_back_equal(tmp_path: Path) -> None:
    name = keep_per_query(tmp_path, VALUES)
    assert load_per_query(tmp_path, row(per_query=name)) == VALUES


def test_files_of_values_are_named_by_the_hash_of_their_content(tmp_path: Path) -> None:
    name = keep_per_query(tmp_path, VALUES)
    contents = files(tmp_path)
    assert len(contents) == 2
    for path, compressed in contents.items():
        content = gzip.decompress(compressed)
        assert Path(path).name == f"{digest(content)}.json.gz"
    record = json.loads(gzip.decompress(contents[name]))[DATASET]
    assert json.loads(gzip.decompress(contents[record["queries"]])) == ["q1", "q2"]
    assert record["measures"] == {"MRR@10": [1.0, 1 / 3], "nDCG@10": [0.5, 0.25]}


def test_equal_values_have_equal_bytes(tmp_path: Path) -> None:
    reordered = {DATASET: {"MRR@10": {"q2": 1 / 3, "q1": 1.0}, "nDCG@10": {"q1": 0.5, "q2": 0.25}}}
    first = keep_per_query(tmp_path / "a", VALUES)
    second = keep_per_query(tmp_path / "b", reordered)
    assert first == second
    assert files(tmp_path / "a") == files(tmp_path / "b")
    for compressed in files(tmp_path / "a").values():
        assert compressed[4:8] == bytes(4), "the time in a gzip header"


def test_rows_share_the_file_of_their_query_ids(tmp_path: Path) -> None:
    filled(tmp_path, {"bert": BERT, "mlm": MLM, "retromae": BERT}, seeds=1)
    bert, mlm, retromae = read(tmp_path)
    assert bert.per_query == retromae.per_query != mlm.per_query
    names = list(files(tmp_path))
    assert len([name for name in names if name.startswith("queries/")]) == 1
    assert len([name for name in names if name.startswith("per_query/")]) == 2


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def change_a_byte(file: Path) -> None:
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[-3] ^= 1
    file.write_bytes(gzip.compress(bytes(content)))


def compress_other_json(file: Path) -> None:
    file.write_bytes(gzip.compress(b"{}"))


@pytest.mark.parametrize("damage", [cut, empty, change_a_byte, compress_other_json])
@pytest.mark.parametrize("kind", ["per_query", "queries"])
def test_a_changed_file_of_values_is_named(kind: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    appended = append(tmp_path, row(values=[2 / 3, 0.375]), VALUES)
    (file,) = (tmp_path / kind).iterdir()
    damage(file)
    with pytest.raises(RetrobenchError) as raised:
        load_per_query(tmp_path, appended)
    message = str(raised.value)
    assert "\n" not in message
    assert f"{tmp_path / appended.per_query}, values of bert" in message
    assert "rerun: retrobench run --objective bert --seed 0" in message
    if damage in (change_a_byte, compress_other_json):
        assert f"{file.name} was changed since it was written" in message


def test_a_missing_file_of_query_ids_is_named(tmp_path: Path) -> None:
    appended = append(tmp_path, row(values=[2 / 3, 0.375]), VALUES)
    (file,) = (tmp_path / "queries").iterdir()
    file.unlink()
    with pytest.raises(RetrobenchError, match=f"No such file .*{file.name}"):
        load_per_query(tmp_path, appended)


def test_a_track_is_kept_once(tmp_path: Path) -> None:
    kept = keep_track(tmp_path, IDENTITY, TRACK)
    file = tmp_path / "tracks" / f"{IDENTITY}.toml"
    assert kept == digest(file.read_bytes())
    assert load_track(tmp_path, IDENTITY) == TRACK
    kept_row = row(identity=IDENTITY, track_toml=kept)
    assert list(kept_faults(tmp_path, kept_row)) == []
    file.write_text("changed = true\n")
    assert list(kept_faults(tmp_path, kept_row)) == [f"tracks/{IDENTITY}.toml was changed since it was written"]
    assert keep_track(tmp_path, IDENTITY, TRACK) == kept
    assert load_track(tmp_path, IDENTITY) == TRACK, "the next run restores it, so that its row is sound"
    assert list(kept_faults(tmp_path, kept_row)) == []


def test_a_track_that_was_not_kept(tmp_path: Path) -> None:
    assert load_track(tmp_path, IDENTITY) is None
    assert list(kept_faults(tmp_path, row(identity=IDENTITY, track_toml="f" * 16))) == []


def test_each_content_of_a_plugin_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    names = []
    for content in (b"a = 1\n", b"a = 2\n", b"a = 1\n"):
        source.write_bytes(content)
        name = keep_plugin(tmp_path / "board", source)
        assert name == f"plugins/{digest(content)}.py"
        assert (tmp_path / "board" / name).read_bytes() == content
        names.append(name)
    assert names[0] == names[2]
    assert set(files(tmp_path / "board")) == set(names)


def test_a_plugin_is_kept_with_the_neighbours_that_it_imports(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("def wrap():\n    import layers.deep\n")
    deep = tmp_path / "layers" / "deep.py"
    deep.parent.mkdir()
    (deep.parent / "__init__.py").write_text("")
    deep.write_text("a = 1\n")
    (tmp_path / "unrelated.py").write_text("a = 1\n")
    board = tmp_path / "board"
    name = keep_plugin(board, source)
    kept = board / name
    assert set(files(kept.parent)) == {"mine.py", "layers/__init__.py", "layers/deep.py"}
    assert kept.read_bytes() == source.read_bytes()
    assert fingerprint(kept) == fingerprint(source)
    plugin_row = row(plugin={"file": "mine.py", "kept": name})
    assert list(kept_faults(board, plugin_row)) == []
    assert name not in missing_files(board, plugin_row)
    (kept.parent / "layers" / "deep.py").write_text("a = 2\n")
    assert list(kept_faults(board, plugin_row)) == [f"{name} was changed since it was written"]
    deep.write_text("a = 2\n")
    assert keep_plugin(board, source) != name
    shutil.rmtree(kept.parent)
    assert name in missing_files(board, plugin_row)


def test_a_package_is_kept_whole(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("from .layers import a\n")
    (package / "layers.py").write_text("a = 1\n")
    name = keep_plugin(tmp_path / "board", package)
    assert name.endswith("/mine")
    assert set(files(tmp_path / "board" / name)) == {"__init__.py", "layers.py"}
    assert fingerprint(tmp_path / "board" / name) == fingerprint(package)
    assert list(kept_faults(tmp_path / "board", row(plugin={"file": "mine", "kept": name}))) == []


def test_of_several_processes_the_first_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "leads", lambda: False)
    source = tmp_path / "mine.py"
    source.write_text("a = 1\n")
    board = tmp_path / "board"
    named = keep_track(board, IDENTITY, TRACK), keep_plugin(board, source)
    assert not board.exists()
    monkeypatch.setattr(processes, "leads", lambda: True)
    assert named == (keep_track(board, IDENTITY, TRACK), keep_plugin(board, source))
    assert len(files(board)) == 2


def test_shipped_values_by_query_are_small() -> None:
    shipped = sorted((Path(__file__).parents[2] / "leaderboards").glob("*/per_query/*.json.gz"))
    assert shipped
    for file in shipped:
        datasets = json.loads(gzip.decompress(file.read_bytes()))
        assert file.stat().st_size <= 15_000 * len(datasets), file.name
