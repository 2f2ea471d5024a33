"""Rows are appended whole or not at all, and tracks are looked up where they should lie."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from leaderboard_rows import DATASET, row

from retrobench.errors import RetrobenchError
from retrobench.leaderboard.rows import (
    append,
    find_duplicate,
    folders,
    load_per_query,
    locate,
    read,
    rows_folder,
    track_folders,
    track_name,
)


def test_a_row_is_one_sorted_line_that_comes_back_equal(tmp_path: Path) -> None:
    first = append(tmp_path, row(values=(0.1, 0.2)), {})
    append(tmp_path, row("mlm"), {})
    text = (tmp_path / "rows.jsonl").read_text()
    keys = list(json.loads(text.splitlines()[0]))
    assert text.count("\n") == 2
    assert keys == sorted(keys)
    appended = read(tmp_path)[0]
    assert appended == first
    assert list(appended.measures[DATASET]) == ["MRR@10", "nDCG@10"], "the main measure stays first"
    assert list(appended.cost) == ["tokenise", "pretrain", "finetune"]


def test_each_round_of_a_run_has_a_row_of_its_own(tmp_path: Path) -> None:
    for name in ("in-batch", "mined", "mined"):
        append(tmp_path, row(round=name), {})
    assert [appended.round for appended in read(tmp_path)] == ["in-batch", "mined"]
    assert find_duplicate(read(tmp_path), row()) is None


def test_a_cached_rerun_appends_nothing(tmp_path: Path) -> None:
    first = append(tmp_path, row(), {})
    again = replace(row(), date="2027-01-01T00:00:00Z", hardware={"cpu": "another"})
    assert append(tmp_path, again, {}) == first
    rows = read(tmp_path)
    assert len(rows) == 1
    assert find_duplicate(rows, again) == first
    assert find_duplicate(rows, row(seed=1)) is None
    assert find_duplicate(rows, row(artifacts={"score": "other"})) is None
    assert len(list((tmp_path / "per_query").iterdir())) == 1


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from leaderboard_rows import DATASET, append, row
for seed in range(int(sys.argv[3]), int(sys.argv[4])):
    long = row(seed=seed, values=[0.5], settings={"long": "x" * 300_000})
    append(Path(sys.argv[2]), long, {DATASET: {"MRR@10": {"q": 0.5}}})
    print(seed, flush=True)
"""


def writer(folder: Path, start: int, stop: int) -> subprocess.Popen[str]:
    """Start a process that appends a row for each seed in a range, and prints the seed after it."""
    helpers = Path(__file__).parents[1] / "helpers"
    arguments = [str(helpers), str(folder), str(start), str(stop)]
    command = [sys.executable, "-c", WRITER, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_lose_no_row(tmp_path: Path) -> None:
    with writer(tmp_path, 0, 10) as first, writer(tmp_path, 100, 110) as second:
        first.communicate(timeout=600)
        second.communicate(timeout=600)
    assert (first.returncode, second.returncode) == (0, 0)
    rows = read(tmp_path)
    assert {row.seed for row in rows} == {*range(10), *range(100, 110)}
    assert len(rows) == 20
    for appended in rows:
        assert load_per_query(tmp_path, appended) == {DATASET: {"MRR@10": {"q": 0.5}}}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_kill_leaves_no_half_line(tmp_path: Path) -> None:
    printed: list[int] = []  # seeds whose rows were appended
    for kill in range(4):
        first_seed = kill * 1000
        with writer(tmp_path, first_seed, first_seed + 1000) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            time.sleep(0.02 + 0.013 * kill)
            process.kill()
            lines += process.stdout.read().splitlines()
        assert process.returncode == -signal.SIGKILL, "killed while it wrote"
        printed += map(int, lines)
        rows = read(tmp_path)
        assert set(printed) <= {row.seed for row in rows}
        assert len(rows) - len(printed) <= kill + 1, "at most the row being written, at each kill"
        for appended in rows:
            assert (tmp_path / appended.per_query).is_file()


def test_a_full_disk_is_one_line_and_leaves_the_old_rows(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file sizes are POSIX's")
    append(tmp_path, row(), {})
    file = tmp_path / "rows.jsonl"
    content = file.read_bytes()
    half_a_line = 100
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + half_a_line, limits[1]))
    try:
        with pytest.raises(RetrobenchError, match=r"Cannot write a row to .*: File too large\. Mend it"):
            append(tmp_path, row("mlm"), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == content


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrobenchError, match=r"Cannot write a row to .*file.*: .*--leaderboard DIR"):
        append(tmp_path / "file" / "mini", row(), {})


def write_empty_track(folder: Path) -> Path:
    """Write a track without settings into a new folder, and return its file."""
    folder.mkdir(parents=True)
    file = folder / "track.toml"
    file.write_text("")
    return file


def test_tracks_are_looked_up_in_the_folder_given_then_here_then_package_then_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "repo" / "harness" / "retrobench"
    monkeypatch.setattr(folders, "PACKAGE", package)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    named = tmp_path / "named"
    expected = [named, Path("leaderboards"), package / "leaderboards", tmp_path / "repo" / "leaderboards"]
    for folder in reversed(expected):  # each new file comes before the files that exist
        file = write_empty_track(folder / "mini")
        assert locate("mini", named) == file
    assert track_folders(named) == expected
    assert locate("mini") == Path("leaderboards/mini/track.toml")


def test_an_unknown_track_names_the_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    for name in ("mini", "msmarco"):
        write_empty_track(tmp_path / "leaderboards" / name)
    message = r"Unknown track 'minni'\. Did you mean 'mini'\? Known: mini, msmarco\. .*--leaderboard"
    with pytest.raises(RetrobenchError, match=message):
        locate("minni")
    with pytest.raises(RetrobenchError, match=r"No track file 'none\.toml'"):
        locate("none.toml")


def test_a_track_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("")
    assert locate(str(file)) == file
    assert track_name(file) == "mine"
    assert track_name(tmp_path / "mini" / "track.toml") == "mini"


def test_rows_go_to_the_folder_given_or_here(tmp_path: Path) -> None:
    assert rows_folder("mini", tmp_path / "new") == tmp_path / "new" / "mini"
    assert rows_folder("mini") == Path("leaderboards/mini")
    assert not (tmp_path / "new").exists()
