"""The released algorithms written anew have the released losses, gradients and mask statistics."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from parity import FIXTURE, LOSSES, decoder_name
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from retrobench import Passage, Vocabulary
from retrobench.bench.feeds import Feed
from retrobench.bench.frame import Setting
from retrobench.bench.models import Scale, Workload
from retrobench.bench.peers import collators
from retrobench.bench.peers.steps import Released, Trainer, copy_weights
from retrobench.model.backbones import Backbone, Pretraining
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
        weights = load_file(FIXTURE / "decoder.safetensors")
        model.decoder.load_state_dict({decoder_name(name): tensor for name, tensor in weights.items()})
    return model.eval()


def load_batch(loss: str) -> dict[str, Tensor]:
    """Return the inputs of a fixture, without its outputs."""
    tensors = load_file(FIXTURE / f"{loss}.safetensors")
    inputs = ("encoder_", "decoder_", "bow_weights")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(inputs)}


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
    norms = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            norms[name] = parameter.grad.double().norm().item()
    expected_norms = {our_name(name): norm for name, norm in expected["grad_norms"].items()}
    assert norms.keys() == expected_norms.keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(expected_norms[name], rel=1e-4, abs=1e-6), name


def our_name(name: str) -> str:
    """Return our name of a parameter of the released model."""
    if name.startswith("lm."):
        return name
    return f"decoder.{decoder_name(name)}"


@pytest.mark.parametrize(("reads", "logged"), [(False, []), (True, ["bow", "loss", "mlm"])])
def test_a_step_trains_and_reads_its_losses_where_released(reads: bool, logged: list[str]) -> None:
    torch.manual_seed(0)
    texts = [make_passage([1000 + i, 1401, 1100 + i, 1200]) for i in range(4)]
    batch = collators.bow(texts, VOCABULARY, 32, random.Random(0))
    trainer = Trainer(load_released("bow"), halved=False, reads=reads)
    losses = [trainer.step(batch).item() for _ in range(5)]
    assert losses[-1] < losses[0]
    assert sorted(trainer.logged) == logged


# Collators


def draw_masks(ids: list[int], ratio: float) -> Tensor:
    """Draw masks of a text between special tokens, [DRAWS, L] bool."""
    pieces = ["##" if word >= FIRST_PIECE else "w" for word in ids]
    tokens = ["[CLS]", *pieces, "[SEP]"]
    draw = random.Random(0)
    masks = [collators.whole_word_mask(tokens, ratio, draw) for _ in range(DRAWS)]
    return torch.tensor(masks).bool()


@pytest.mark.parametrize("row", MASKS["statistics"], ids=lambda row: f"{row['text']}-{row['p']}")
def test_masks_are_distributed_as_the_released_masks(row: dict[str, Any]) -> None:
    ids = MASKS["texts"][row["text"]]
    masks = draw_masks(ids, row["p"])
    assert masks.shape[1] == row["length"]
    assert not masks[:, [0, -1]].any(), "[CLS] and [SEP] are never masked"
    masks = masks[:, 1:-1]
    words = torch.tensor(ids)
    counts = masks[:, words >= FIRST_WORD].sum(1).double()  # [UNK] is no label
    assert counts.max() <= row["budget"]
    deviation = counts.std().item()
    error = deviation * (1 / DRAWS + 1 / MASKS["draws"]) ** 0.5
    difference = counts.mean().item() - row["masked"]["mean"]
    assert abs(difference) <= 5 * error + 1e-9
    continues = words[1:] >= FIRST_PIECE
    split = masks[:, 1:] != masks[:, :-1]
    assert not split[:, continues].any()


@pytest.mark.parametrize("text", ["length_33", "length_128"])
def test_the_matrix_shows_as_many_tokens_as_the_released_matrix(text: str) -> None:
    (row,) = [row for row in MASKS["statistics"] if row["text"] == text and row["p"] == 0.5]
    length = row["length"]
    passage = make_passage(MASKS["texts"][text])
    batch = collators.retromae([passage] * 12, VOCABULARY, 512, random.Random(1))
    visible = batch["decoder_attention_mask"]
    assert visible.shape == (12, length, length)
    assert visible.dtype == torch.int64
    assert visible.diagonal(0, 1, 2).sum() == 0
    assert visible[:, 1:, 0].all()
    assert visible[:, :-1, -1].all()
    assert visible.double().mean().item() == pytest.approx(row["visible_fraction"], abs=0.02)


def test_retromaes_batch_is_laid_out_as_released() -> None:
    texts = [make_passage([1000, 1400, 1001, 1002]), make_passage([1003])]
    batch = collators.retromae(texts, VOCABULARY, 5, random.Random(0))
    assert batch.keys() == load_batch("retromae").keys()
    ids = batch["decoder_input_ids"]
    assert ids.tolist() == [[101, 1000, 1400, 1001, 102], [101, 1003, 102, 0, 0]]
    assert batch["decoder_labels"].tolist() == [[-100, 1000, 1400, 1001, -100], [-100, 1003, -100, -100, -100]]
    assert batch["encoder_attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    visible = batch["decoder_attention_mask"][1]
    assert not visible[3:].any()
    assert not visible[:, 3:].any()
    labels = batch["encoder_labels"]
    labelled = labels != -100
    assert torch.equal(labels[labelled], ids[labelled])


def test_bags_hold_the_distinct_words_of_the_window() -> None:
    texts = [make_passage([1000, 1000, 1400, 100]), make_passage([])]
    weights = collators.bow(texts, VOCABULARY, 16, random.Random(0))["bow_weights"]
    assert weights.shape == (2, 1600)
    assert weights.dtype == torch.float32
    assert weights[0].nonzero().flatten().tolist() == [1000, 1400]
    assert weights[0, 1000] == weights[0, 1400] == 0.5
    assert not weights[1].any()


def test_an_auto_encoding_decoder_gets_a_mask_of_its_own() -> None:
    batch = collators.ae([make_passage(list(range(1000, 1100)))], VOCABULARY, 102, random.Random(0))
    assert (batch["encoder_labels"] != -100).sum() == round(102 * 0.3)
    assert (batch["decoder_labels"] != -100).sum() == round(102 * 0.45)


def test_an_auto_regressive_decoder_gets_the_clean_text() -> None:
    ids = list(range(1000, 1100))
    batch = collators.ar([make_passage(ids)], VOCABULARY, 102, random.Random(0))
    assert batch["decoder_input_ids"].tolist() == [[101, *ids, 102]]
    assert batch["decoder_labels"].tolist() == [[101, *ids, 102]]


def test_the_peer_has_the_weights_of_our_model() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    ours = RetroMAE().wrap(Backbone(BertForMaskedLM(config)))
    assert isinstance(ours, Pretraining)
    peer = copy_weights(ours, "retromae")
    assert peer.lm.config._attn_implementation == "eager"
    our_weights = {name.removeprefix("backbone."): weight for name, weight in ours.named_parameters()}
    peer_weights = dict(peer.named_parameters())
    assert peer_weights.keys() == our_weights.keys()
    for name, weight in peer_weights.items():
        assert torch.equal(weight, our_weights[name]), name


def test_workers_make_distinct_batches_without_end() -> None:
    """Each worker draws its own passages, and makes more once its first batches are used up."""
    texts = [make_passage([1000 + i] * 6) for i in range(30)]
    sizes = Scale(2, 32, 2, 64, batch=4, length=16)
    feed = Feed(collators.mlm, Workload(Setting("cpu"), sizes, texts))
    feed.workers = 2
    feed.steady()
    label_sums = set()
    for _ in range(4):
        batch = next(feed)
        assert batch["encoder_input_ids"].shape == (4, 8)
        label_sums.add(batch["encoder_labels"].sum().item())
    assert len(label_sums) > 1
