"""One experiment, whatever runs it: one process that takes two shards, and two processes that share them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dying
import numpy as np
import pytest
import tiny
from processes import launch, start

from retrobench.errors import RetrobenchError
from retrobench.leaderboard import read
from retrobench.leaderboard.comparison import compare
from retrobench.training import Batches

OBJECTIVES = ("bert", "mlm", "retromae", "bow-mae", "dupmae")
MAIN = [sys.executable, "-c", "from retrobench.cli import main; main()"]
SHARDS = ["--set", "pretrain.shards=2", "--set", "finetune.shards=2"]
PROBES = ["--set", "pretrain.probe_every=4", "--set", "pretrain.probe_steps=3"]


def options(track: tiny.Tiny, *objectives: str) -> list[str]:
    return [*track.options(*objectives), *SHARDS, *PROBES]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """A track on which one process has run every objective with two shards."""
    track = tiny.make(tmp_path_factory.mktemp("single"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*MAIN, *options(track, *OBJECTIVES)], env=environment, check=True, capture_output=True)
    return track


Results = list[subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def launched(single: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[tiny.Tiny, Results]:
    """The same track, on which two processes have run every objective into the same leaderboard."""
    track = single._replace(store=tmp_path_factory.mktemp("shared"))
    results = launch([*MAIN, *options(track, *OBJECTIVES)])
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    return track, results


@pytest.fixture(scope="module")
def shared(launched: tuple[tiny.Tiny, Results]) -> tiny.Tiny:
    return launched[0]


def rows_of(track: tiny.Tiny, processes: int) -> dict[str, dict[str, Any]]:
    """Return the rows of one or of two processes by entrant."""
    return {row["entrant"]: row for row in track.rows() if row["processes"] == processes}


def log(track: tiny.Tiny, row: dict[str, Any], role: str) -> list[dict[str, float]]:
    folder = track.store / role.split(" ")[0] / row["artifacts"][role]
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_train_as_one(objective: str, single: tiny.Tiny, shared: tiny.Tiny) -> None:
    one, two = rows_of(single, 1)[objective], rows_of(shared, 2)[objective]
    assert one["identity"] == two["identity"]
    assert two["command"].startswith("torchrun --no-python --nproc-per-node 2 retrobench run ")
    for role in ("pretrain", "finetune in-batch"):
        if role not in one["artifacts"]:
            continue
        first, second = log(single, one, role)[0], log(shared, two, role)[0]
        assert first.keys() == second.keys()
        # A different mask, token or dropout of one word would change a loss in the third digit.
        assert second == pytest.approx(first, abs=1e-6, rel=1e-6)
    if objective != "bert":
        assert one["cost"]["pretrain"]["tokens"] == two["cost"]["pretrain"]["tokens"]
    negatives = [[line["negatives"] for line in log(single, one, "finetune in-batch")]]
    negatives += [[line["negatives"] for line in log(shared, two, "finetune in-batch")]]
    assert negatives[0] == negatives[1]


def test_two_processes_probe_as_one(single: tiny.Tiny, shared: tiny.Tiny) -> None:
    one, two = rows_of(single, 1)["retromae"], rows_of(shared, 2)["retromae"]
    probes, coverages = [], []
    for track, row in ((single, one), (shared, two)):
        records = [record for record in log(track, row, "pretrain") if "probe" in record]
        probes.append({record["step"]: record["probe"] for record in records})
        coverages.append({record["step"]: record["probe_coverage"] for record in records})
    assert list(probes[0]) == [4]
    assert probes[1] == pytest.approx(probes[0], abs=0.01) and 0 < probes[0][4] < 1
    assert coverages[1] == pytest.approx(coverages[0], abs=1e-3) and coverages[0][4] != 0


def test_rows_of_one_and_of_two_processes_share_a_line(single: tiny.Tiny, shared: tiny.Tiny) -> None:
    (comparison,) = compare(read(shared.boards / "tiny"))
    assert sorted(line.entrant for line in comparison.lines) == sorted(OBJECTIVES)
    assert [line.seeds for line in comparison.lines] == [[0]] * 5


@pytest.mark.slow
def test_two_processes_make_every_artifact_once(launched: tuple[tiny.Tiny, Results]) -> None:
    track, (first, second) = launched
    assert "retromae" in first.stdout
    assert second.stdout == ""
    assert "pretrain retromae seed 0: new" in first.stderr
    assert "seed 0" not in second.stderr
    assert len(track.finished("pretrain")) == 4
    assert len(track.finished("finetune")) == 10
    assert not list(track.store.glob("*/*.partial"))
    count = len(track.rows())
    rerun, _ = launch([*MAIN, *options(track, "retromae")])
    assert "pretrain retromae seed 0: cached" in rerun.stderr
    assert len(track.rows()) == count


@pytest.mark.slow
def test_two_killed_processes_resume_bit_for_bit(shared: tiny.Tiny, tmp_path: Path) -> None:
    track = shared._replace(store=tmp_path / "store", boards=tmp_path / "boards")
    pattern = f"{track.store}/pretrain/*.partial/step-000000004.new/state.json"
    leader, follower = start([sys.executable, dying.__file__, pattern, *options(track, "dupmae")])
    leader.communicate(timeout=300)
    follower.kill()
    follower.communicate()
    assert leader.returncode == -signal.SIGKILL
    results = launch([*MAIN, *options(track, "dupmae")])
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert "continuing at step 2" in results[0].stderr
    resumed, unbroken = rows_of(track, 2)["dupmae"], rows_of(shared, 2)["dupmae"]
    assert resumed["measures"] == unbroken["measures"]
    assert resumed["negatives"] == unbroken["negatives"]
    for role in ("pretrain", "finetune in-batch", "finetune mined"):
        assert resumed["artifacts"][role] == unbroken["artifacts"][role]
        file = Path(role.split(" ")[0], resumed["artifacts"][role], "model.safetensors")
        assert (track.store / file).read_bytes() == (shared.store / file).read_bytes()


@pytest.mark.slow
def test_processes_that_cannot_share_the_shards_are_refused(single: tiny.Tiny) -> None:
    words = [*MAIN, *single.options("mlm"), "--set", "pretrain.shards=4"]
    for result in launch(words):
        assert result.returncode == 2
        message = result.stderr.strip().splitlines()[-1]
        assert message.startswith("Error: 2 processes cannot share finetune.shards = 1 equally (track tiny).")
        assert "Start 1, or change the track: --set finetune.shards=2." in message


def test_a_batch_is_the_union_of_its_shards() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 50)
    whole, cut = Batches(lengths, 8, 2, seed=1), Batches(lengths, 8, 2, seed=1, shards=4)
    for number in range(12):
        shards = [cut.shard(number, position) for position in range(4)]
        assert [len(shard) for shard in shards] == [2] * 4
        assert np.concatenate(shards).tolist() == whole.rows(number).tolist()


def test_a_small_collection_still_has_equal_shards() -> None:
    batches = Batches(np.ones(7, np.int64), 8, 0, seed=0, shards=2)
    assert [len(batches.shard(0, position)) for position in (0, 1)] == [3, 3]
    with pytest.raises(RetrobenchError, match=r"^1 training examples cannot be cut into 2 shards\. Set shards to 1"):
        Batches(np.ones(1, np.int64), 8, 0, seed=0, shards=2)
