"""Loss terms and gradients against what the official code gave (fixtures/parity/README.md says how)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from parity import FIXTURE, LOSSES, decoder_name
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertForMaskedLM, BertTokenizer

from retrobench import Passage, Step, Vocabulary
from retrobench.data.tokens import vocabulary
from retrobench.model.backbones import Backbone, Pretraining
from retrobench_bow_mae import BowPrediction
from retrobench_dupmae import DupMAE
from retrobench_retromae import RetroMAE

MAX_LENGTH = 40


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return vocabulary(BertTokenizer(vocab=str(FIXTURE / "vocab.txt")), 1600)


def ours(official: str) -> str:
    """The name in our model of a parameter of the official one."""
    if official.startswith("lm."):
        return f"backbone.{official}"
    return f"decoder.{decoder_name(official)}"


def released_weights(objective: RetroMAE | DupMAE | BowPrediction) -> Pretraining:
    model = objective.wrap(Backbone(BertForMaskedLM.from_pretrained(FIXTURE)))
    assert isinstance(model, Pretraining)
    if not isinstance(objective, BowPrediction):
        official = load_file(FIXTURE / "decoder.safetensors")
        renamed = {decoder_name(name): value for name, value in official.items()}
        model.get_submodule("decoder").load_state_dict(renamed)
    return model.eval()


def passages(rows: list[list[int]]) -> list[Passage]:
    """The first half of a text as its title: where it ends may not matter."""
    tokens = (FIXTURE / "vocab.txt").read_text().split("\n")
    family = []
    for row in rows:
        ids = np.array(row, np.uint16)
        starts = np.array([not tokens[i].startswith("##") for i in row])
        middle = next((i for i in range(len(row) // 2, len(row)) if starts[i]), 0)
        family.append(Passage(ids[:middle], starts[:middle], ids[middle:], starts[middle:]))
    return family


def batch(
    name: str, objective: RetroMAE | DupMAE | BowPrediction, words: Vocabulary
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our collator's batch, with the recorded random choices in place of its own, and the recorded batch."""
    official = load_file(FIXTURE / f"{name}.safetensors")
    if name == "bow":  # the window that bowdpr drew
        lengths = official["encoder_attention_mask"].sum(1)
        windows = zip(official["original_input_ids"], lengths, strict=True)
        rows = [ids[1 : length - 1].tolist() for ids, length in windows]
    else:
        texts = zip(official["token_ids"], official["token_lengths"], strict=True)
        rows = [ids[:length].tolist() for ids, length in texts]
    family = objective.collate(passages(rows), words, MAX_LENGTH, torch.Generator().manual_seed(0))
    assert torch.equal(family["attention_mask"], official["encoder_attention_mask"])
    labels = official["encoder_labels"].flatten()
    family["input_ids"] = official["encoder_input_ids"]
    family["masked_positions"] = (labels != -100).nonzero().flatten()
    family["masked_ids"] = labels[labels != -100]
    if name != "bow":
        family["visible"] = official["decoder_attention_mask"].bool()
        # Rows of padding, which no loss reads, see nothing officially and [CLS] with `decoder_visibility`.
        family["visible"][:, :, 0] |= ~official["encoder_attention_mask"].bool()
    return family, official


def dense(bag: Tensor, weights: Tensor) -> Tensor:
    return torch.zeros(len(bag), 1600).scatter_add_(1, bag, weights)


def check(step: Step, model: Pretraining, expected: dict[str, Any], weights: dict[str, float]) -> None:
    """Weighted terms and their sum to 1e-5; the norm of every parameter's gradient to a relative 1e-5."""
    assert set(step.losses) == set(weights)
    for term, weight in weights.items():
        assert step.losses[term].item() == pytest.approx(weight * expected[term], rel=0, abs=1e-5), term
    total = torch.stack(list(step.losses.values())).sum()
    assert total.item() == pytest.approx(expected["total"], rel=0, abs=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    norms = {n: p.grad.double().norm().item() for n, p in model.named_parameters() if p.grad is not None}
    recorded = {ours(name): norm for name, norm in expected["grad_norms"].items()}
    assert set(norms) == set(recorded)
    for name, norm in norms.items():  # the keys' biases have a gradient of zero up to rounding
        assert norm == pytest.approx(recorded[name], rel=1e-5, abs=1e-6), name
    matrix = norms["backbone.lm.bert.embeddings.word_embeddings.weight"]
    assert matrix == pytest.approx(expected["grad_norm_word_embeddings"], rel=1e-5)
    assert math.hypot(*norms.values()) == pytest.approx(expected["grad_norm_all"], rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "recorded"),
    [(RetroMAE(), "retromae"), (RetroMAE(query_form="embedding"), "retromae_dupmae_query")],
    ids=["positions", "embedding"],
)
def test_retromae(objective: RetroMAE, recorded: str, words: Vocabulary) -> None:
    family, official = batch("retromae", objective, words)
    labels = official["decoder_labels"].flatten()
    assert torch.equal(family["clean_ids"], official["decoder_input_ids"])
    assert torch.equal(family["content_positions"], (labels != -100).nonzero().flatten())
    model = released_weights(objective)
    check(model(0.0, **family), model, LOSSES[recorded], {"mlm": 1.0, "decoder": 1.0})


def test_dupmae(words: Vocabulary) -> None:
    family, official = batch("dupmae", DupMAE(), words)
    assert torch.equal(family["clean_ids"], official["decoder_input_ids"])
    assert torch.equal(dense(family["bag"], family["bag_weights"]), official["bag_word_weight"])
    model = released_weights(DupMAE())
    assert LOSSES["dupmae"]["bow_weight"] == 0.1
    check(model(0.0, **family), model, LOSSES["dupmae"], {"mlm": 1.0, "decoder": 1.0, "bow": 0.1})


def test_bow_prediction(words: Vocabulary) -> None:
    family, official = batch("bow", BowPrediction(), words)
    assert torch.equal(dense(family["bag"], family["bag_weights"]), official["bow_weights"])
    model = released_weights(BowPrediction())
    step = model(0.0, **family)
    check(step, model, LOSSES["bow"], {"mlm": 1.0, "bow": 1.0})
    floor = float(torch.tensor([math.log(n) for n in (official["bow_weights"] > 0).sum(1).tolist()]).mean())
    assert step.metrics["bow_kl"].item() == pytest.approx(LOSSES["bow"]["bow"] - floor, abs=1e-5)
    assert step.metrics["bow_kl"].item() > 0


def test_the_bags_weight_falls_as_recorded() -> None:
    schedule = LOSSES["bow_schedule"]
    whole = BowPrediction(decay_share=1.0, decay_to=schedule["decay_to"])
    assert len(schedule["values"]) == 7
    for point in schedule["values"]:
        assert whole.weight(point["k_over_K"]) == pytest.approx(point["factor"], rel=1e-12)


def test_the_bags_weight_reaches_its_floor_after_the_released_share() -> None:
    released = BowPrediction()
    for k in range(101):
        falling = 0.5 * (1 + math.cos(math.pi * min(k / 25, 1.0)))
        assert released.weight(k / 100) == pytest.approx(0.1 + 0.9 * falling, rel=1e-12)
    assert [released.weight(p) for p in (0.0, 0.125, 0.25, 1.0)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    marco = BowPrediction(**BowPrediction.presets["as_released_marco"])
    assert [marco.weight(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    paper = BowPrediction(**BowPrediction.presets["paper"])
    assert {paper.weight(k / 10) for k in range(11)} == {1.0}


def test_the_weighted_bag_follows_progress(words: Vocabulary) -> None:
    family, _ = batch("bow", BowPrediction(), words)
    model = released_weights(BowPrediction())
    early, late = model(0.0, **family), model(1.0, **family)
    assert late.losses["bow"].item() == pytest.approx(0.1 * early.losses["bow"].item(), rel=1e-6)
    assert torch.equal(late.losses["mlm"], early.losses["mlm"])
