"""Loss terms and gradients against those of the official code (fixtures/parity/README.md says how)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from contexts import wrapped
from parity import FIXTURE, LOSSES, decoder_name
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertForMaskedLM, BertTokenizer

from retrobench import Passage, Step, Vocabulary
from retrobench.data.tokens import vocabulary
from retrobench.model import Backbone, Pretraining
from retrobench_bow_mae import BowPrediction
from retrobench_dupmae import DupMAE
from retrobench_retromae import RetroMAE

MAX_LENGTH = 40


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return vocabulary(BertTokenizer(vocab=str(FIXTURE / "vocab.txt")), 1600)


Objective = RetroMAE | DupMAE | BowPrediction


def our_name(official: str) -> str:
    """Return our name of a parameter of the official model."""
    if official.startswith("lm."):
        return f"backbone.{official}"
    return f"decoder.{decoder_name(official)}"


def released_weights(objective: Objective) -> Pretraining:
    model = wrapped(objective, Backbone(BertForMaskedLM.from_pretrained(FIXTURE)))
    if not isinstance(objective, BowPrediction):
        official = load_file(FIXTURE / "decoder.safetensors")
        renamed = {decoder_name(name): value for name, value in official.items()}
        model.get_submodule("decoder").load_state_dict(renamed)
    return model.eval()


def as_passage(ids: list[int]) -> Passage:
    """Build a passage whose title is about the first half: the title's end may not matter."""
    vocabulary_lines = (FIXTURE / "vocab.txt").read_text().split("\n")
    starts = [not vocabulary_lines[token_id].startswith("##") for token_id in ids]
    title = 0
    for position in range(len(ids) // 2, len(ids)):
        if starts[position]:
            title = position
            break
    tokens = np.array(ids, np.uint16)
    word_starts = np.array(starts)
    return Passage(tokens[:title], word_starts[:title], tokens[title:], word_starts[title:])


def recorded_texts(official: dict[str, Tensor]) -> list[list[int]]:
    """Return token ids without special tokens, of the texts or of the windows that bowdpr drew."""
    if "token_ids" in official:
        ids = official["token_ids"]
        lengths = official["token_lengths"]
    else:
        ids = official["original_input_ids"][:, 1:]
        lengths = official["encoder_attention_mask"].sum(1) - 2
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


def labelled(labels: Tensor) -> Tensor:
    """Return the positions in the flattened batch that have a label."""
    return (labels.flatten() != -100).nonzero().flatten()


def batch(name: str, objective: Objective, words: Vocabulary) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return our collator's batch, with the recorded random choices in place of its own, and the recorded batch."""
    official = load_file(FIXTURE / f"{name}.safetensors")
    passages = [as_passage(ids) for ids in recorded_texts(official)]
    our_batch = objective.collate(passages, words, MAX_LENGTH, torch.Generator().manual_seed(0))
    assert torch.equal(our_batch["attention_mask"], official["encoder_attention_mask"])
    labels = official["encoder_labels"].flatten()
    our_batch["input_ids"] = official["encoder_input_ids"]
    our_batch["masked_positions"] = labelled(labels)
    our_batch["masked_ids"] = labels[labels != -100]
    if "decoder_attention_mask" in official:
        visible = official["decoder_attention_mask"].bool()
        # Rows of padding, which no loss reads, see nothing officially and [CLS] with `decoder_visibility`.
        is_padding = ~official["encoder_attention_mask"].bool()
        visible[:, :, 0] |= is_padding
        our_batch["visible"] = visible
    return our_batch, official


def dense_bag(our_batch: dict[str, Tensor]) -> Tensor:
    """Write the bags' weights out over the vocabulary, [B, V]."""
    bag = our_batch["bag"]
    return torch.zeros(len(bag), 1600).scatter_add_(1, bag, our_batch["bag_weights"])


def gradient_norms(model: Pretraining) -> dict[str, float]:
    norms = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            norms[name] = parameter.grad.double().norm().item()
    return norms


def check(step: Step, model: Pretraining, expected: dict[str, Any], weights: dict[str, float]) -> None:
    """Compare weighted terms and their sum to 1e-5, the norm of every parameter's gradient to a relative 1e-5."""
    assert set(step.losses) == set(weights)
    for term, weight in weights.items():
        loss = step.losses[term].item()
        assert loss == pytest.approx(weight * expected[term], rel=0, abs=1e-5), term
    total = torch.stack(list(step.losses.values())).sum()
    assert total.item() == pytest.approx(expected["total"], rel=0, abs=1e-5)
    total.backward()  # type: ignore[no-untyped-call]

    norms = gradient_norms(model)
    expected_norms = {our_name(name): norm for name, norm in expected["grad_norms"].items()}
    assert set(norms) == set(expected_norms)
    for name, norm in norms.items():  # the keys' biases have a gradient of zero up to rounding
        assert norm == pytest.approx(expected_norms[name], rel=1e-5, abs=1e-6), name
    word_norm = norms["backbone.lm.bert.embeddings.word_embeddings.weight"]
    assert word_norm == pytest.approx(expected["grad_norm_word_embeddings"], rel=1e-5)
    whole_norm = math.hypot(*norms.values())
    assert whole_norm == pytest.approx(expected["grad_norm_all"], rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "recorded"),
    [(RetroMAE(), "retromae"), (RetroMAE(query_form="embedding"), "retromae_dupmae_query")],
    ids=["positions", "embedding"],
)
def test_retromae(objective: RetroMAE, recorded: str, words: Vocabulary) -> None:
    our_batch, official = batch("retromae", objective, words)
    assert torch.equal(our_batch["clean_ids"], official["decoder_input_ids"])
    content = labelled(official["decoder_labels"])
    assert torch.equal(our_batch["content_positions"], content)
    model = released_weights(objective)
    step = model(0.0, **our_batch)
    check(step, model, LOSSES[recorded], {"mlm": 1.0, "decoder": 1.0})


def test_dupmae(words: Vocabulary) -> None:
    our_batch, official = batch("dupmae", DupMAE(), words)
    assert torch.equal(our_batch["clean_ids"], official["decoder_input_ids"])
    assert torch.equal(dense_bag(our_batch), official["bag_word_weight"])
    recorded = LOSSES["dupmae"]
    assert recorded["bow_weight"] == 0.1
    model = released_weights(DupMAE())
    step = model(0.0, **our_batch)
    check(step, model, recorded, {"mlm": 1.0, "decoder": 1.0, "bow": 0.1})


def test_bow_prediction(words: Vocabulary) -> None:
    our_batch, official = batch("bow", BowPrediction(), words)
    assert torch.equal(dense_bag(our_batch), official["bow_weights"])
    recorded = LOSSES["bow"]
    model = released_weights(BowPrediction())
    step = model(0.0, **our_batch)
    check(step, model, recorded, {"mlm": 1.0, "bow": 1.0})

    words_per_bag = (official["bow_weights"] > 0).sum(1)
    entropy = words_per_bag.log().mean().item()
    divergence = step.metrics["bow_kl"].item()
    assert divergence == pytest.approx(recorded["bow"] - entropy, abs=1e-5)
    assert divergence > 0


def test_the_bags_weight_falls_as_recorded() -> None:
    schedule = LOSSES["bow_schedule"]
    whole = BowPrediction(decay_share=1.0, decay_to=schedule["decay_to"])
    assert len(schedule["values"]) == 7
    for point in schedule["values"]:
        weight = whole.weight(point["k_over_K"])
        assert weight == pytest.approx(point["factor"], rel=1e-12)


def test_the_bags_weight_falls_by_a_cosine_over_the_released_share() -> None:
    released = BowPrediction()
    for percent in range(101):
        fallen = min(percent / 25, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * fallen))
        assert released.weight(percent / 100) == pytest.approx(0.1 + 0.9 * cosine, rel=1e-12)


RELEASED_MARCO = BowPrediction(**BowPrediction.presets["as_released_marco"])


@pytest.mark.parametrize(
    ("objective", "share"),
    [(BowPrediction(), 0.25), (RELEASED_MARCO, 0.5)],
    ids=["released", "as_released_marco"],
)
def test_the_bags_weight_reaches_its_floor(objective: BowPrediction, share: float) -> None:
    assert objective.weight(0.0) == pytest.approx(1.0)
    assert objective.weight(share / 2) == pytest.approx(0.55)
    assert objective.weight(share) == pytest.approx(0.1)
    assert objective.weight(1.0) == pytest.approx(0.1)


def test_the_papers_bag_keeps_its_weight() -> None:
    paper = BowPrediction(**BowPrediction.presets["paper"])
    for percent in range(0, 101, 10):
        assert paper.weight(percent / 100) == 1.0


def test_the_weighted_bag_follows_progress(words: Vocabulary) -> None:
    our_batch, _ = batch("bow", BowPrediction(), words)
    model = released_weights(BowPrediction())
    early = model(0.0, **our_batch).losses
    late = model(1.0, **our_batch).losses
    assert late["bow"].item() == pytest.approx(0.1 * early["bow"].item(), rel=1e-6)
    assert torch.equal(late["mlm"], early["mlm"])
