"""The released algorithms written anew have the released losses, gradients and mask statistics."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from contexts import wrapped
from parity import FIXTURE, LOSSES, decoder_name
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from retrobench import Passage, Vocabulary
from retrobench.bench.feeds import Feed
from retrobench.bench.models import Scale, Workload
from retrobench.bench.peers import collators
from retrobench.bench.peers.steps import Released, Trainer, copy_weights
from retrobench.bench.setting import Setting
from retrobench.model import Backbone, Pretraining
from retrobench_retromae import RetroMAE

MASKS: dict[str, Any] = json.loads((FIXTURE / "masks.json").read_text())
FIRST_WORD = 999
VOCABULARY = Vocabulary(size=1600, pad=0, cls=101, sep=102, mask=103, special=frozenset(range(FIRST_WORD)))
FIRST_PIECE = 1400  # ids from here continue a word
DRAWS = 500


def make_passage(ids: list[int]) -> Passage:
    starts = [word < FIRST_PIECE for word in ids]
    return Passage(
        title=np.zeros(0, np.uint16),
        title_starts=np.zeros(0, np.bool_),
        text=np.array(ids, np.uint16),
        text_starts=np.array(starts, np.bool_),
    )


def load_released(loss: str) -> Released:
    lm = BertForMaskedLM.from_pretrained(FIXTURE, attn_implementation="eager")
    model = Released(lm, loss)
    if model.decoder is not None:
        weights = {}
        for name, tensor in load_file(FIXTURE / "decoder.safetensors").items():
            weights[decoder_name(name)] = tensor
        model.decoder.load_state_dict(weights)
    return model.eval()


def load_batch(loss: str) -> dict[str, Tensor]:
    """Return the inputs of a fixture, without its outputs."""
    inputs = {}
    for name, tensor in load_file(FIXTURE / f"{loss}.safetensors").items():
        if name.startswith(("encoder_", "decoder_", "bow_weights")):
            inputs[name] = tensor
    return inputs


# Steps


@pytest.mark.parametrize("loss", ["retromae", "bow"])
def test_losses_and_gradients_are_the_released_ones(loss: str) -> None:
    expected = LOSSES[loss]
    model = load_released(loss)
    terms = model(**load_batch(loss))
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name], abs=1e-5), name
    total = torch.stack(list(terms.values())).sum()
    assert total.item() == pytest.approx(expected["total"], abs=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad
    expected_norms = {our_name(name): norm for name, norm in expected["grad_norms"].items()}
    assert gradients.keys() == expected_norms.keys()
    for name, gradient in gradients.items():
        norm = gradient.double().norm().item()
        assert norm == pytest.approx(expected_norms[name], rel=1e-4, abs=1e-6), name


def our_name(name: str) -> str:
    """Return our name of a parameter of the released model."""
    if name.startswith("lm."):
        return name
    return f"decoder.{decoder_name(name)}"


@pytest.mark.parametrize(("reads", "logged"), [(False, []), (True, ["bow", "loss", "mlm"])])
def test_a_step_trains_and_reads_its_losses_where_released(reads: bool, logged: list[str]) -> None:
    torch.manual_seed(0)
    texts = []
    for number in range(4):
        ids = [1000 + number, 1401, 1100 + number, 1200]
        texts.append(make_passage(ids))
    batch = collators.bow(texts, VOCABULARY, 32, random.Random(0))
    trainer = Trainer(load_released("bow"), "fp32", reads=reads)
    losses = []
    for _ in range(5):
        loss = trainer.step(batch)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert sorted(trainer.logged) == logged


# Collators


def draw_masks(ids: list[int], ratio: float) -> Tensor:
    """Draw masks of a text between special tokens, [DRAWS, L] bool."""
    tokens = ["[CLS]"]
    for word in ids:
        if word >= FIRST_PIECE:
            tokens.append("##")
        else:
            tokens.append("w")
    tokens.append("[SEP]")
    draw = random.Random(0)
    masks = [collators.whole_word_mask(tokens, ratio, draw) for _ in range(DRAWS)]
    return torch.tensor(masks).bool()


@pytest.mark.parametrize("row", MASKS["statistics"], ids=lambda row: f"{row['text']}-{row['p']}")
def test_masks_are_distributed_as_the_released_masks(row: dict[str, Any]) -> None:
    ids = MASKS["texts"][row["text"]]
    masks = draw_masks(ids, row["p"])
    assert masks.shape[1] == row["length"]
    special_tokens = masks[:, [0, -1]]
    assert not special_tokens.any(), "[CLS] and [SEP] are never masked"

    text_masks = masks[:, 1:-1]
    words = torch.tensor(ids)
    has_label = words >= FIRST_WORD  # [UNK] has none
    counts = text_masks[:, has_label].sum(1).double()
    assert counts.max() <= row["budget"]
    released_draws = MASKS["draws"]
    standard_error = counts.std().item() * math.sqrt(1 / DRAWS + 1 / released_draws)
    difference = counts.mean().item() - row["masked"]["mean"]
    assert abs(difference) <= 5 * standard_error + 1e-9

    continues_a_word = words[1:] >= FIRST_PIECE
    differs_from_the_last = text_masks[:, 1:] != text_masks[:, :-1]
    split_words = differs_from_the_last[:, continues_a_word]
    assert not split_words.any()


@pytest.mark.parametrize("text", ["length_33", "length_128"])
def test_the_matrix_shows_as_many_tokens_as_the_released_matrix(text: str) -> None:
    (row,) = [row for row in MASKS["statistics"] if row["text"] == text and row["p"] == 0.5]
    length = row["length"]
    passage = make_passage(MASKS["texts"][text])
    batch = collators.retromae([passage] * 12, VOCABULARY, 512, random.Random(1))
    visible = batch["decoder_attention_mask"]
    assert visible.shape == (12, length, length)
    assert visible.dtype == torch.int64
    own_tokens = visible.diagonal(0, 1, 2)
    cls_tokens = visible[:, 1:, 0]
    sep_tokens = visible[:, :-1, -1]
    assert own_tokens.sum() == 0
    assert cls_tokens.all()
    assert sep_tokens.all()
    visible_fraction = visible.double().mean().item()
    assert visible_fraction == pytest.approx(row["visible_fraction"], abs=0.02)


def test_retromaes_batch_is_laid_out_as_released() -> None:
    """The first text is cut to the window of 5 tokens, and the second padded."""
    cut = make_passage([1000, 1400, 1001, 1002])
    padded = make_passage([1003])
    batch = collators.retromae([cut, padded], VOCABULARY, 5, random.Random(0))
    assert batch.keys() == load_batch("retromae").keys()
    ids = batch["decoder_input_ids"]
    decoder_labels = batch["decoder_labels"]
    mask = batch["encoder_attention_mask"]
    assert ids.tolist() == [[101, 1000, 1400, 1001, 102], [101, 1003, 102, 0, 0]]
    assert decoder_labels.tolist() == [[-100, 1000, 1400, 1001, -100], [-100, 1003, -100, -100, -100]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    visible = batch["decoder_attention_mask"][1]
    assert not visible[3:].any()
    assert not visible[:, 3:].any()
    encoder_labels = batch["encoder_labels"]
    labelled = encoder_labels != -100
    assert torch.equal(encoder_labels[labelled], ids[labelled])


def test_bags_hold_the_distinct_words_of_the_window() -> None:
    texts = [make_passage([1000, 1000, 1400, 100]), make_passage([])]
    batch = collators.bow(texts, VOCABULARY, 16, random.Random(0))
    weights = batch["bow_weights"]
    assert weights.shape == (2, 1600)
    assert weights.dtype == torch.float32
    first, empty = weights
    assert first.nonzero().flatten().tolist() == [1000, 1400]
    assert first[1000] == 0.5
    assert first[1400] == 0.5
    assert not empty.any()


LONG_TEXT = list(range(1000, 1100))  # fills a window of 102 tokens


def test_an_auto_encoding_decoder_gets_a_mask_of_its_own() -> None:
    batch = collators.ae([make_passage(LONG_TEXT)], VOCABULARY, 102, random.Random(0))
    encoder_labelled = batch["encoder_labels"] != -100
    decoder_labelled = batch["decoder_labels"] != -100
    assert encoder_labelled.sum() == round(102 * 0.3)
    assert decoder_labelled.sum() == round(102 * 0.45)


def test_an_auto_regressive_decoder_gets_the_clean_text() -> None:
    batch = collators.ar([make_passage(LONG_TEXT)], VOCABULARY, 102, random.Random(0))
    clean_text = [[101, *LONG_TEXT, 102]]
    assert batch["decoder_input_ids"].tolist() == clean_text
    assert batch["decoder_labels"].tolist() == clean_text


def test_the_peer_has_the_weights_of_our_model() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    ours = wrapped(RetroMAE(), Backbone(BertForMaskedLM(config)))
    assert isinstance(ours, Pretraining)
    peer = copy_weights(ours, "retromae")
    assert peer.lm.config._attn_implementation == "eager"
    our_weights = {}
    for name, weight in ours.named_parameters():
        our_weights[name.removeprefix("backbone.")] = weight
    peer_weights = dict(peer.named_parameters())
    assert peer_weights.keys() == our_weights.keys()
    for name, weight in peer_weights.items():
        assert torch.equal(weight, our_weights[name]), name


def test_workers_make_distinct_batches_without_end() -> None:
    """Each worker draws its own passages, and makes more once its first batches are used up."""
    texts = [make_passage([word] * 6) for word in range(1000, 1030)]
    sizes = Scale(2, 32, 2, 64, batch=4, length=16)
    feed = Feed(collators.mlm, Workload(Setting("cpu"), sizes, texts))
    feed.workers = 2
    feed.steady()
    label_sums = set()
    for _ in range(4):
        batch = next(feed)
        assert batch["encoder_input_ids"].shape == (4, 8)
        label_sum = batch["encoder_labels"].sum()
        label_sums.add(label_sum.item())
    assert len(label_sums) > 1
