"""Probes of a pre-training: their numbers are those of the stages, and the training does not feel them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny

from retrobench.config import Experiment, discover, read_entrant, read_track
from retrobench.errors import RetrobenchError
from retrobench.pipeline import pretrain
from retrobench.runs.sweep import Request, sweep
from retrobench.stages import Work, open_inputs
from retrobench.store import Artifact, Store

PROBES = ("pretrain.probe_every=3", "pretrain.probe_steps=3", "pretrain.log_every=2")


def experiment(track: tiny.Tiny, *overrides: str) -> Experiment:
    entrant = read_entrant("retromae", discover(), [])
    return Experiment(read_track(track.track, "tiny", overrides), entrant, 0)


def pretrained(track: tiny.Tiny, store: str, *overrides: str) -> Artifact:
    """Pre-train in a store of its own."""
    planned = experiment(track, *overrides)
    (inputs,) = open_inputs([planned])
    assert inputs.base is not None
    encoder = pretrain(Work(planned, inputs, Store(track.store / store)), inputs.base.model)
    assert isinstance(encoder, Artifact)
    return encoder


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    return tiny.make(tmp_path_factory.mktemp("probes"))


@pytest.fixture(scope="module")
def probed(track: tiny.Tiny) -> Artifact:
    return pretrained(track, "probed", *PROBES)


def test_a_training_does_not_feel_its_probes(track: tiny.Tiny, probed: Artifact) -> None:
    plain = pretrained(track, "plain", "pretrain.log_every=2")
    assert probed.key == plain.key
    names = {file.name for file in plain.path.iterdir() if file.is_file()} - {"log.jsonl", "entry.json"}
    assert "model.safetensors" in names
    assert sorted(path.name for path in probed.path.iterdir()) == sorted(path.name for path in plain.path.iterdir())
    for name in names:
        assert (probed.path / name).read_bytes() == (plain.path / name).read_bytes(), name
    records = log(probed.path)
    assert [record["step"] for record in records if record.pop("probe", None) is not None] == [3, 6]
    assert [record for record in records if record["step"] not in (3, 6)] == log(plain.path)


def test_a_probe_is_the_score_of_a_short_finetuning(track: tiny.Tiny, probed: Artifact) -> None:
    """The stages fine-tune the finished encoder for as many steps, and score it on the validation questions."""
    overrides = (
        *("pretrain.log_every=2", "finetune.steps=3", "mine.depth=0", "evaluate.select="),
        f'evaluate.datasets=["{track.data}:val"]',
    )
    swept = sweep(Request(["retromae"], str(track.track), (0,), overrides, track.store / "probed", track.boards))
    (row,) = swept.rows
    assert row.artifacts["pretrain"] == probed.key
    assert row.overrides.keys() >= {"finetune.steps"} and not any("probe" in key for key in row.overrides)
    assert log(probed.path)[-1] == {"step": 6, "probe": row.measures[f"{track.data}:val"]["MRR@10"]}


def test_a_cached_training_is_not_probed(
    track: tiny.Tiny, probed: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrained(track, "probed", *PROBES).cached
    assert "retromae seed 0: cached, so nothing is probed; --fresh " in capsys.readouterr().err


def test_a_probe_that_diverges_has_no_number(track: tiny.Tiny) -> None:
    diverged = pretrained(track, "diverged", "finetune.learning_rate=1e38", *PROBES)
    assert log(diverged.path)[-1] == {"step": 6, "probe": None}


def test_a_part_of_the_validation_is_searched(track: tiny.Tiny) -> None:
    settings = (
        'adapt.corpus=["{0}:train"]',
        "adapt.max_length=40",
        "adapt.steps=2",
        "adapt.batch=8",
        "adapt.learning_rate=1e-3",
    )
    overrides = [setting.format(track.data) for setting in settings]
    overrides += ["evaluate.select=", f"adapt.probe_dataset={track.data}:val", "adapt.probe_every=1"]
    (inputs,) = open_inputs([experiment(track, *overrides, "adapt.probe_documents=7")])
    (training, _), (validation, _) = inputs.probes["adapt"]
    assert list(inputs.probes) == ["adapt"]
    assert (training.id, validation.id) == (f"{track.data}:train", f"{track.data}:val")
    assert validation.corpus.count == 7
    assert 0 < len(list(validation.dataset.queries())) <= 7


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["evaluate.select="], r"^pretrain\.probe_every is set.*pretrain\.probe_dataset or evaluate\.select"),
        (["pretrain.probe_dataset={data}:test"], r"^pretrain\.probe_dataset is .*:test, which is tested"),
    ],
)
def test_probes_have_questions_of_their_own(track: tiny.Tiny, overrides: Sequence[str], fault: str) -> None:
    named = [override.format(data=track.data) for override in overrides]
    with pytest.raises(RetrobenchError, match=fault):
        experiment(track, *PROBES, *named)
