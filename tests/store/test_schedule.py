"""A rehearsal notes the stages of a pipeline, and finished entries tell the time of their likes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_stages import SOURCE

from retrobench.core import Position
from retrobench.store import Artifact, Rehearsal, Schedule, Store, schedule

SECONDS = {"pretrain": 40.0, "finetune": 20.0, "encode": 5.0}


@pytest.fixture
def positions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Position]]:
    seen: list[Position] = []

    def keep(position: Position | None) -> None:
        if position is not None:
            seen.append(position)

    monkeypatch.setattr(schedule, "set_position", keep)
    yield seen


def pipeline(store: Store, objective: str, seed: int, texts: str = "docs") -> list[Artifact]:
    """Ask for a pre-training unless the objective is none, a fine-tuning and two encodings; each takes its seconds."""

    def ensure(stage: str, settings: dict[str, object], *sources: Artifact) -> Artifact:
        return store.ensure(stage, settings, sources, lambda folder: {"seconds": SECONDS[stage]})

    start = SOURCE
    if objective != "none":
        start = ensure("pretrain", {"objective": objective, "settings": {}, "seed": seed, "steps": 9}, SOURCE)
    encoder = ensure("finetune", {"seed": seed, "steps": 5}, start)
    vectors = [ensure("encode", {"texts": text}, encoder) for text in (texts, "queries")]
    return [encoder, *vectors]


def rehearse(store: Store, *runs: tuple[str, int]) -> Schedule:
    rehearsal = Rehearsal(store)
    for objective, seed in runs:
        rehearsal.begin_run()
        pipeline(rehearsal, objective, seed)
    return rehearsal.schedule()


def run(store: Store, *runs: tuple[str, int]) -> list[tuple[int, int]]:
    """Run pipelines against a store and return the numbers of each run's stages, all and finished."""
    noted = rehearse(store, *runs)
    store.watch = noted.watch
    counts = []
    for objective, seed in runs:
        counts.append(noted.begin_run())
        pipeline(store, objective, seed)
    return counts


def test_a_rehearsal_makes_nothing_and_has_the_keys_of_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rehearsal = Rehearsal(store)
    rehearsal.begin_run()
    rehearsed = pipeline(rehearsal, "mlm", 0)
    assert list(tmp_path.iterdir()) == []
    assert [artifact.key for artifact in rehearsed] == [artifact.key for artifact in pipeline(store, "mlm", 0)]


def test_the_time_left_is_known_once_a_like_of_each_stage_is_timed(tmp_path: Path, positions: list[Position]) -> None:
    counts = run(Store(tmp_path), ("none", 0), ("mlm", 0), ("mlm", 1))
    assert counts == [(3, 0), (4, 0), (4, 0)]
    places = [(position.run, position.stage, position.stages) for position in positions]
    assert places == [(1, stage, 3) for stage in (1, 2, 3)] + [
        (number, stage, 4) for number in (2, 3) for stage in (1, 2, 3, 4)
    ]
    # Nothing tells the time of a pre-training before the first has ended. The vanilla run tells that of the others.
    assert [position.seconds_after for position in positions] == [None] * 4 + [80, 75, 70, 30, 10, 5, 0]


def test_a_store_tells_the_time_of_another_seed_before_another_objective(
    tmp_path: Path, positions: list[Position], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline(Store(tmp_path), "mlm", 0)
    monkeypatch.setitem(SECONDS, "pretrain", 100.0)
    pipeline(Store(tmp_path), "retromae", 0)
    assert run(Store(tmp_path), ("mlm", 0), ("mlm", 1), ("retromae", 1), ("dupmae", 0)) == [(4, 4)] + [(4, 0)] * 3
    other_objective = positions[0].seconds_after
    assert other_objective is not None
    assert other_objective - 3 * 30 in (40 + 100 + 40, 40 + 100 + 100), "of entries of one second, either is the last"


def test_fresh_finishes_no_stage_and_other_settings_are_no_likes(tmp_path: Path, positions: list[Position]) -> None:
    pipeline(Store(tmp_path), "mlm", 0)
    assert rehearse(Store(tmp_path, fresh=True), ("mlm", 0), ("mlm", 0)).begin_run() == (4, 0)
    rehearsal = Rehearsal(Store(tmp_path))
    rehearsal.begin_run()
    pipeline(rehearsal, "mlm", 1, texts="other docs")
    noted = rehearsal.schedule()
    noted.begin_run()
    store = Store(tmp_path)
    store.watch = noted.watch
    pipeline(store, "mlm", 1, texts="other docs")
    assert [position.seconds_after for position in positions] == [None, None, 5, 0]
