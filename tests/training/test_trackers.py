"""Losses in a tracker: read back equal to the log, without any effect on the training."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny

from retrobench.errors import RetrobenchError
from retrobench.runs.sweep import Request, sweep
from retrobench.training import use_tracker


@pytest.fixture(autouse=True)
def no_tracker() -> None:
    use_tracker(None, Path())


def run(track: tiny.Tiny, tracker: str | None, store: Path) -> None:
    sweep(Request(["mlm"], str(track.track), store=store, leaderboard=store / "boards", tracker=tracker))


def logs(store: Path) -> dict[str, list[dict[str, float]]]:
    """Return the records of every training by the start of its key."""
    records = {}
    for file in store.glob("*/*/log.jsonl"):
        records[file.parent.name[:8]] = [json.loads(line) for line in file.read_text().splitlines()]
    return records


def test_tensorboard_has_the_losses_of_the_log(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    track = tiny.make(tmp_path)
    run(track, "tensorboard", tmp_path / "store")
    expected = logs(tmp_path / "store")
    assert len(expected) == 3, "pre-training and two rounds of fine-tuning"
    for key, records in expected.items():
        (folder,) = (tmp_path / "store" / "trackers").glob(f"*{key}")
        events = accumulator.EventAccumulator(str(folder))
        events.Reload()
        for name in records[0]:
            if name != "step":
                sent = {event.step: event.value for event in events.Scalars(name)}
                logged = {int(record["step"]): record[name] for record in records}
                assert sent == pytest.approx(logged, rel=1e-6), f"{name}: float32"


def test_a_tracker_changes_no_weight(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    track = tiny.make(tmp_path)
    run(track, "tensorboard", tmp_path / "tracked")
    run(track, None, tmp_path / "plain")
    assert logs(tmp_path / "tracked") == logs(tmp_path / "plain")
    for file in (tmp_path / "plain").glob("finetune/*/model.safetensors"):
        other = tmp_path / "tracked" / file.relative_to(tmp_path / "plain")
        assert other.read_bytes() == file.read_bytes()


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_the_losses_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store" / "trackers"))
    run(tiny.make(tmp_path), "trackio", tmp_path / "store")
    (database,) = (tmp_path / "store" / "trackers").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics").fetchall()
    sent = {}
    for name, step, metrics in rows:
        sent[name[-8:], int(step)] = json.loads(metrics)["gradient_norm"]
    expected = {}
    for key, records in logs(tmp_path / "store").items():
        for record in records:
            expected[key, int(record["step"])] = record["gradient_norm"]
    assert sent == pytest.approx(expected)


def test_an_unknown_tracker_is_named_before_any_training(tmp_path: Path) -> None:
    track = tiny.make(tmp_path)
    with pytest.raises(RetrobenchError, match=r"tracker.*mlflow.*tensorboard"):
        run(track, "mlflow", tmp_path / "store")
    assert logs(tmp_path / "store") == {}


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("retrobench.training.trackers.find_spec", lambda name: None)
    with pytest.raises(RetrobenchError, match="pip install wandb"):
        use_tracker("wandb", tmp_path)
