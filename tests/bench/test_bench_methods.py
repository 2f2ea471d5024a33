"""The benchmarks of pre-training methods: equal sides on real cases, and the verdict made of their numbers."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retrobench.bench import BENCHMARKS
from retrobench.bench.benchmarks import collation
from retrobench.bench.feeds import convert_batch
from retrobench.bench.frame import UnequalError
from retrobench.bench.methods import METHODS, Method
from retrobench.bench.models import default_scale, make_pretraining
from retrobench.bench.peers import collators
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, draw_passages
from retrobench.bench.verdict import Degenerations, published, verdict
from retrobench.bench.worker import load
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import performance

SMOKE = Setting("cpu", smoke=True)
PERFORMANCE = Path(__file__).parents[2] / "leaderboards" / "performance"


@pytest.mark.parametrize("name", ["collation", "objectives", "retromae", "bow-mae"])
def test_both_sides_of_every_case_are_equal(name: str) -> None:
    make_cases = load(BENCHMARKS[name])
    case_names = set()
    checks = set()
    for case in make_cases(SMOKE):
        case_names.add(case.name)
        checks.add(case.check)
    for aim in performance.read_aims(PERFORMANCE):
        if aim.benchmark == name and aim.device == "cpu":
            assert aim.case in case_names
    assert checks
    for check in checks:
        assert check()


def test_a_wrong_mask_is_refused_before_timing() -> None:
    texts = draw_passages([64] * 4)
    ours = collation.collate_visible(texts, 64)
    peer = collators.retromae(texts, VOCABULARY, 64, random.Random(0))
    assert "visible share" in collation.require_equal_distributions(ours, peer)
    wrong_entries = {(0, 5, 5): True, (1, 3, 0): False}
    for entry, value in wrong_entries.items():
        visible = ours["visible"].clone()
        visible[entry] = value
        with pytest.raises(UnequalError, match="ours"):
            collation.require_equal_distributions({**ours, "visible": visible}, peer)
    no_labels = torch.full_like(peer["encoder_labels"], -100)
    with pytest.raises(UnequalError, match="tokens masked"):
        collation.require_equal_distributions(ours, {**peer, "encoder_labels": no_labels})


def test_the_verdict_is_made_of_the_printed_numbers() -> None:
    table = published()
    assert table["Enhanced Decoding"]["samples/s"] == 85.797
    assert table["Pure MLM"]["degeneration"] is None
    sentence = verdict(
        released=Degenerations(0.7, 0.02),
        waitless=Degenerations(0.3, 0.01),
        ours=Degenerations(0.4, 0.01),
        bounds=Degenerations(0.24, 0.0),
        sizes="4 x 128",
    )
    for fact in (
        "68.2 % - 1.2 % = 67 points",
        "85.8 samples/s, 94 % of the 91.0 that 8 workers",
        "accounts for 24 points",
        "measures a data loader, not an objective",
        "at 4 x 128",
        "68 points collating as released",
        "29 with the wait for data taken out",
        "39 collating as retrobench",
    ):
        assert fact in sentence
    assert ". " not in sentence


def test_the_verdict_follows_the_published_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training at half of its loader's rate did not wait for the loader."""
    table = copy.deepcopy(published())
    table["Enhanced Decoding"]["samples/s"] = 45.0
    monkeypatch.setattr("retrobench.bench.verdict.published", lambda: table)
    measured = Degenerations(0.5, 0.1)
    sentence = verdict(measured, measured, measured, measured, "4 x 128")
    assert "49 % of the 91.0" in sentence
    assert "is not explained by the data loader" in sentence
    table["BoW"]["degeneration"] = None
    with pytest.raises(RetrobenchError, match="print no degeneration of BoW"):
        verdict(measured, measured, measured, measured, "4 x 128")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_objectives_learn_from_either_collator(method: Method) -> None:
    """A batch collated as released has the names and shapes of ours."""
    objective = method.objective()
    texts = draw_passages([20, 12, 16, 9])
    ours = objective.collate(texts, VOCABULARY, 32, torch.Generator().manual_seed(0))
    released_batch = method.collator(texts, VOCABULARY, 32, random.Random(0))
    released = convert_batch(released_batch)
    assert released.keys() - {"visible"} == ours.keys()
    for name in ours.keys() & {"decoder_positions", "content_positions", "attention_mask"}:
        assert ours[name].shape == released[name].shape, name
    sizes = replace(default_scale(SMOKE), dropout=0.0)
    model = make_pretraining(objective, sizes, "cpu").eval()
    our_losses = model(0.0, **ours).losses
    released_losses = model(0.0, **released).losses
    our_loss = sum(our_losses.values()).item()
    released_loss = sum(released_losses.values()).item()
    assert math.isfinite(our_loss)
    assert our_loss == pytest.approx(released_loss, rel=0.1)
