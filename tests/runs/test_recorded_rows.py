"""A row says what it is of: the content that was read, the plugin's source, the checkpoint and its origin."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

from retrobench.config.discovery import discover, find_objective
from retrobench.leaderboard.comparison import compare
from retrobench.leaderboard.rows import Row, load_track, read
from retrobench.runs.sweep import Request, sweep

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar

from retrobench import hookimpl
from retrobench_mlm import MaskedLanguageModelling

@dataclass(frozen=True)
class Mine(MaskedLanguageModelling):
    name: ClassVar[str] = "mine"

@hookimpl
def retrobench_objectives():
    return [Mine]
"""


class Board(NamedTuple):
    """A tiny track with the rows of three entrants."""

    track: tiny.Tiny
    plugin: Path
    retromae: Row
    mine: Row
    bm25: Row

    @property
    def folder(self) -> Path:
        return self.track.boards / "tiny"

    def run(self, name: str, *overrides: str) -> Row:
        return run(self.track, [name], self.plugin, overrides)[0]


def run(track: tiny.Tiny, entrants: list[str], plugin: Path, overrides: tuple[str, ...] = ()) -> list[Row]:
    request = Request(entrants, str(track.track), (0,), overrides, track.store, track.boards, (plugin,))
    return sweep(request).rows


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    track = tiny.make(tmp_path_factory.mktemp("rows"))
    plugin = track.track.with_name("mine.py")
    plugin.write_text(PLUGIN)
    rows = run(track, ["retromae", "mine", "bm25"], plugin)
    yield Board(track, plugin, *rows)


def test_the_rows_are_read_as_they_were_appended(board: Board) -> None:
    assert read(board.folder)[:3] == [board.retromae, board.mine, board.bm25]


def test_content_names_everything_that_the_training_read(board: Board) -> None:
    data = board.track.data
    content = board.retromae.content
    assert content.keys() == {"base", f"{data}:train passages", f"{data}:train", f"{data}:val"}
    for digest in content.values():
        assert len(digest) == 20
    assert len(set(content.values())) == 4
    assert board.mine.content == content
    assert board.bm25.content == {}, "nothing is trained"


CHANGES = {
    "qrels/train.tsv": {"train"},
    "corpus.jsonl": {"train passages", "train", "val"},
    "qrels/test.tsv": set(),  # the test's facts hold its hash
}


@pytest.mark.parametrize("name", CHANGES)
def test_content_changes_with_the_files(name: str, board: Board, tmp_path: Path) -> None:
    """The track's settings stay equal, so its identity does not show the difference."""
    changed = board.track._replace(store=tmp_path / "store", boards=tmp_path / "boards")
    file = board.track.data / name
    text = file.read_text()
    *kept, _ = text.splitlines(keepends=True)
    file.write_text("".join(kept))
    try:
        (row,) = run(changed, ["retromae"], board.plugin)
    finally:
        file.write_text(text)
    before = board.retromae.content
    assert row.identity == board.retromae.identity
    assert row.content.keys() == before.keys()
    differing = {content.rpartition(":")[2] for content in before if row.content[content] != before[content]}
    assert differing == CHANGES[name]


def test_the_source_of_an_objective_is_hashed(board: Board) -> None:
    retromae = find_objective("retromae", discover())
    assert board.retromae.objective_source == retromae.code
    assert len(board.retromae.objective_source) == len(board.mine.objective_source) == 64
    assert board.mine.objective_source != board.retromae.objective_source
    assert board.bm25.objective_source == ""


def test_one_process_ran_it(board: Board) -> None:
    assert [row.processes for row in (board.retromae, board.mine, board.bm25)] == [1, 1, 1]


def test_the_resolved_track_is_kept(board: Board) -> None:
    row = board.retromae
    file = board.folder / "tracks" / f"{row.identity}.toml"
    assert row.track_toml == hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    track = load_track(board.folder, row.identity)
    assert track is not None
    assert track["pretrain"]["steps"] == 6
    assert track["model"]["base"] == str(board.track.base)
    assert board.mine.track_toml == board.bm25.track_toml == row.track_toml


def test_a_plugin_file_is_kept_and_a_distribution_named(board: Board) -> None:
    assert board.retromae.plugin == {"distribution": "retrobench", "version": board.retromae.version}
    digest = hashlib.sha256(PLUGIN.encode()).hexdigest()[:16]
    assert board.mine.plugin == {"file": str(board.plugin), "kept": f"plugins/{digest}.py"}
    assert (board.folder / board.mine.plugin["kept"]).read_text() == PLUGIN


def test_a_changed_plugin_file_is_a_line_of_its_own(board: Board) -> None:
    board.plugin.write_text(PLUGIN + "# changed\n")
    try:
        changed = board.run("mine")
    finally:
        board.plugin.write_text(PLUGIN)
    assert changed.objective_source != board.mine.objective_source
    assert changed.artifacts["pretrain"] != board.mine.artifacts["pretrain"]
    assert (board.folder / changed.plugin["kept"]).read_text() == PLUGIN + "# changed\n"
    assert (board.folder / board.mine.plugin["kept"]).read_text() == PLUGIN
    (table,) = compare([board.mine, changed])
    names = {line.entrant for line in table.lines}
    sources = [row.objective_source[:8] for row in (board.mine, changed)]
    assert names == {f"mine (source={source})" for source in sources}


def test_a_checkpoint_of_the_store_is_labelled_by_the_objective_that_made_it(board: Board) -> None:
    """It is fine-tuned under `mlm`, which did not train it and may not take its place in a table."""
    encoder = board.track.store / "pretrain" / board.retromae.artifacts["pretrain"]
    row = board.run("mlm", f"entrant.checkpoint={encoder}")
    assert row.checkpoint is not None
    key = row.checkpoint["hash"]
    assert len(key) == 20
    label = f"retromae@{key[:8]}"
    assert row.checkpoint == {"name": str(encoder), "label": label, "hash": key, "revision": ""}
    assert row.entrant == label
    assert row.objective == "mlm"
    assert "pretrain" not in row.artifacts
    assert "base" not in row.content, "its checkpoint was read instead"
    assert row.measures == board.retromae.measures, "the same weights, fine-tuned alike"


def test_another_checkpoint_is_labelled_by_its_folder(board: Board) -> None:
    released = shutil.copytree(board.track.base, board.track.base.with_name("released"))
    first = board.run("mlm", f"entrant.checkpoint={released}")
    config = json.loads((released / "config.json").read_text())
    (released / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0}))
    second = board.run("mlm", f"entrant.checkpoint={released}")
    hashes = []
    for row in (first, second):
        assert row.checkpoint is not None
        hashes.append(row.checkpoint["hash"])
        assert row.entrant == row.checkpoint["label"] == f"released@{row.checkpoint['hash'][:8]}"
    assert len(set(hashes)) == 2, "one name, two models"
    (table,) = compare([first, second])
    assert len(table.lines) == 2
