"""A limit shortens the trainings of a track, and leaves a track without one as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrobench.config import Track, resolve
from retrobench.config.reading import read_track
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import keep_track

BOARDS = Path(__file__).parents[2] / "leaderboards"


def read(name: str, *overrides: str) -> Track:
    """Read a shipped track."""
    return read_track(BOARDS / name / "track.toml", name, overrides)


def test_a_track_without_a_limit_is_that_of_the_shipped_rows(tmp_path: Path) -> None:
    track = read("mini", "data.limit=0")
    lines = (BOARDS / "mini" / "rows.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    unchanged = [row for row in rows if not row["overrides"]]
    assert unchanged
    assert {row["identity"] for row in unchanged} == {track.identity} == {"8c9aaec386098fef"}
    assert {row["track_toml"] for row in unchanged} == {keep_track(tmp_path, track.identity, resolve(track))}
    assert track.overrides == {}


def test_a_limit_is_an_override_with_every_change_that_it_makes() -> None:
    track = read("mini", "data.limit=300")
    assert track.overrides == {
        "data.limit": 300,
        "pretrain.batch": 30,
        "pretrain.steps": 20,
        "finetune.batch": 30,
        "finetune.steps": 20,
    }
    assert resolve(track)["data"] == {"limit": 300}


def test_each_limit_is_an_identity() -> None:
    limits = (0, 8, 300, 301, 10**9)
    tracks = [read("mini", f"data.limit={limit}") for limit in limits]
    assert len({track.identity for track in tracks}) == len(limits)
    assert tracks[-1].overrides == {"data.limit": 10**9}, "a limit above the data changes no training"


@pytest.mark.parametrize("limit", [1, 5, 80, 100, 1000, 5000])
def test_a_training_is_never_longer_than_the_tracks(limit: int) -> None:
    whole = read("mini")
    track = read("mini", f"data.limit={limit}")
    for settings, longest in ((track.pretrain, whole.pretrain), (track.finetune, whole.finetune)):
        assert min(8, limit) <= settings.batch <= longest.batch
        assert 10 <= settings.steps <= longest.steps
        assert settings.steps == 10 or settings.steps * settings.batch >= min(2 * limit, longest.steps * longest.batch)
    assert track.mine.depth == min(whole.mine.depth, max(1, limit // 10))


def test_settings_of_the_command_line_stay() -> None:
    track = read(
        "mini", "data.limit=300", "pretrain.steps=90", "finetune.batch=40", "finetune.epochs=3", "mine.depth=99"
    )
    assert (track.pretrain.steps, track.pretrain.batch) == (90, 30)
    assert (track.finetune.batch, track.finetune.steps, track.finetune.epochs) == (40, 0, 3.0)
    assert track.mine.depth == 99


def test_a_recipe_of_a_paper_is_shortened() -> None:
    track = read("msmarco", "data.limit=300")
    assert track.adapt is not None
    assert (track.pretrain.batch, track.pretrain.epochs) == (24, 2.0), "8 shards divide a batch"
    assert (track.adapt.batch, track.adapt.epochs) == (24, 2.0)
    assert (track.finetune.hard, track.mine.depth) == ("", 30)
    assert track.overrides["finetune.hard"] == ""
    bow = read("msmarco-bow", "data.limit=300")
    assert (bow.pretrain.batch, bow.pretrain.steps, bow.pretrain.warmup) == (32, 19, 0.1), "32 shards"
    assert (bow.mine.depth, bow.mine.skip) == (30, 2)


@pytest.mark.parametrize("setting", ["finetune.hard=msmarco-titled:train", "distil.scores=scores.tsv"])
def test_documents_of_the_whole_corpus_are_refused(setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(RetrobenchError, match=f"^{key} names documents of the whole corpus, and data.limit is 300"):
        read("msmarco", "distil.teacher=", "data.limit=300", setting)


def test_a_limit_in_a_file_shortens_the_file(tmp_path: Path) -> None:
    file = tmp_path / "trial.toml"
    file.write_text((BOARDS / "mini" / "track.toml").read_text("utf-8") + "\n[data]\nlimit = 300\n")
    track = read_track(file, "mini", [])
    assert track.overrides == {}
    assert track.identity == read("mini", "data.limit=300").identity
