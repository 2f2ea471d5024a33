"""Probes of a pre-training: their numbers are those of the stages, and the training does not feel them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from retrobench.config import Experiment, discover, read_entrant, read_track
from retrobench.data import document_rows, open_collections
from retrobench.errors import RetrobenchError
from retrobench.model import load_tokenizer, load_with_head
from retrobench.pipeline import pretrain
from retrobench.runs.sweep import Request, sweep
from retrobench.stages import Work, open_inputs
from retrobench.store import Artifact, Store

LENGTH = 40  # tokens of a passage
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


def covered(words: set[int], ranking: Sequence[int]) -> float:
    """Return the share of the words among as many of the best."""
    return len(words & set(ranking[: len(words)])) / len(words)


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
    for name in ("probe", "probe_coverage"):
        assert [record["step"] for record in records if record.pop(name, None) is not None] == [3, 6]
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
    last = log(probed.path)[-1]
    assert (last["step"], last["probe"]) == (6, row.measures[f"{track.data}:val"]["MRR@10"])


def test_the_coverage_of_a_probe_is_that_of_the_finished_encoder(track: tiny.Tiny, probed: Artifact) -> None:
    """By hand: the share of a document's R words among the R best of the head, above that of a drawn document."""
    backbone, _ = load_with_head(probed.path)
    backbone.eval()
    tokenizer = load_tokenizer(probed.path)
    (collection,) = open_collections([f"{track.data}:val"]).values()
    special = set(tokenizer.all_special_ids)
    bags, rankings = [], []
    for _, title, text in document_rows(collection.dataset):
        words = tokenizer.encode(title, add_special_tokens=False) + tokenizer.encode(text, add_special_tokens=False)
        ids = [tokenizer.cls_token_id, *words[: LENGTH - 2], tokenizer.sep_token_id]
        with torch.no_grad():
            vectors = backbone.hidden(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
            scores = backbone.logits(vectors[:, 0])[0]
        scores[list(special)] = -torch.inf
        bags.append(set(words[: LENGTH - 2]) - special)
        rankings.append(scores.argsort(descending=True, stable=True).tolist())
    order = np.random.default_rng(0).permutation(len(bags)).tolist()
    above = []
    for number, other in zip(order, [*order[1:], order[0]], strict=True):
        if bags[number] and bags[other]:
            above.append(covered(bags[number], rankings[number]) - covered(bags[other], rankings[number]))
    assert log(probed.path)[-1]["probe_coverage"] == pytest.approx(sum(above) / len(above), abs=1e-3)


def test_a_cached_training_is_not_probed(
    track: tiny.Tiny, probed: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrained(track, "probed", *PROBES).cached
    assert "retromae seed 0: cached, so nothing is probed; --fresh " in capsys.readouterr().err


def test_a_probe_that_diverges_has_no_number(track: tiny.Tiny) -> None:
    diverged = pretrained(track, "diverged", "finetune.learning_rate=1e38", *PROBES)
    last = log(diverged.path)[-1]
    assert last["probe"] is None and last["probe_coverage"] is not None, "only the fine-tuning diverged"


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
