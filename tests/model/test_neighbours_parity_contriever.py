"""Contriever's eight recorded steps with their optimizer (fixtures/neighbours/README.md says how they were made)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from contexts import wrapped
from parity import FIXTURE as BASE
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForMaskedLM

from retrobench import Passage, Vocabulary
from retrobench.model import Backbone, Pretraining
from retrobench.training import Coupled, Shard
from retrobench_contriever import Contriever

FIXTURE = Path(__file__).parents[1] / "fixtures" / "neighbours"
RECORD: dict[str, Any] = json.loads((FIXTURE / "contriever.json").read_text())
TENSORS = load_file(FIXTURE / "contriever.safetensors")
BATCH, QUEUE = 4, 12

RUNS = {
    "moco": Contriever(queue=QUEUE, momentum=0.9, temperature=4.0),
    "normalised": Contriever(queue=QUEUE, momentum=0.9995, temperature=0.05, normalise=True),
}


class Comparison(NamedTuple):
    """A number of ours beside the official one."""

    term: str
    ours: float
    official: float


def recorded_batch(step: int) -> dict[str, Tensor]:
    """Return the queries of a step and then its keys, padded together."""
    names = ("q_tokens", "k_tokens"), ("q_mask", "k_mask")
    longest = max(TENSORS[f"{step}.{name}"].shape[1] for name in names[0])
    tensors = []
    for pair in names:
        rows = []
        for name in pair:
            tensor = TENSORS[f"{step}.{name}"].long()
            rows.append(F.pad(tensor, (0, longest - tensor.shape[1])))
        tensors.append(torch.cat(rows))
    return dict(zip(("input_ids", "attention_mask"), tensors, strict=True))


def newest_first(slots: Tensor, pointer: int) -> Tensor:
    """Return the official queue [D, slots] as rows [slots, D], the newest batch first."""
    oldest_first = slots.T.roll(-pointer, 0)
    return oldest_first.view(-1, BATCH, slots.shape[0]).flip(0).flatten(0, 1)


def start(run: str) -> Pretraining:
    model = wrapped(RUNS[run], Backbone(BertForMaskedLM.from_pretrained(BASE)))
    model.queue = newest_first(TENSORS["queue"], 0)
    return model.train()


def official_norms(module: Any) -> dict[str, float]:
    """Return the norms of a module's parameters by their official names, without the head."""
    parameters = module.lm.bert.named_parameters()
    return {name: parameter.detach().double().norm().item() for name, parameter in parameters}


def gradient_norms(model: Pretraining) -> dict[str, float]:
    norms = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            norms[name.removeprefix("backbone.lm.bert.")] = parameter.grad.double().norm().item()
    return norms


def train(run: str) -> tuple[list[Comparison], dict[str, float], Pretraining]:
    """Make the eight steps of a run: their numbers, the gradient norms of the second step, and the model."""
    model = start(run)
    coupled = Coupled("contriever", model)
    settings = RECORD["optimizer"]
    optimizer = torch.optim.AdamW(
        model.parameters(),
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    comparisons = []
    second_norms = {}
    for number, recorded in enumerate(RECORD[run]["steps"]):
        optimizer.param_groups[0]["lr"] = recorded["learning_rate"]
        step = coupled(number / 8, [Shard(np.arange(BATCH), 0, recorded_batch(number), 0.0)])
        step.losses["contrastive"].backward()
        norms = gradient_norms(model)
        comparisons += [
            Comparison(f"loss {number}", step.losses["contrastive"].item(), recorded["loss"]),
            Comparison(f"accuracy {number}", 100 * step.metrics["accuracy"].item(), recorded["accuracy"]),
            Comparison(f"gradient {number}", math.hypot(*norms.values()), recorded["grad_norm_all"]),
        ]
        if number == 1:
            second_norms = norms
        optimizer.step()
        optimizer.zero_grad()
    return comparisons, second_norms, model


@pytest.mark.parametrize("run", RUNS)
def test_eight_steps(run: str) -> None:
    comparisons, norms, model = train(run)
    assert len(comparisons) == 3 * 8
    for term, ours, official in comparisons:
        if term.startswith("gradient"):
            # The first normalised gradient is 7e-4: there the official softmax rounds 1 + 2e-5 to 24 bits.
            assert ours == pytest.approx(official, rel=1e-5, abs=1e-6), term
        else:
            assert ours == pytest.approx(official, rel=0, abs=1e-5), term
    expected_norms = RECORD[run]["steps"][1]["grad_norms"]
    assert set(norms) == set(expected_norms)
    for name, norm in norms.items():  # the keys' biases have a gradient of zero up to rounding
        assert norm == pytest.approx(expected_norms[name], rel=1e-5, abs=1e-6), name
    check_norms(official_norms(model.backbone), RECORD[run]["query_norms"])
    check_norms(official_norms(model.key_encoder), RECORD[run]["key_norms"])


def check_norms(ours: Mapping[str, float], official: Mapping[str, float]) -> None:
    """Compare the norms of trained weights. Adam makes steps of the keys' biases' gradients, which are rounding."""
    assert set(ours) == set(official)
    for name, norm in ours.items():
        tolerance = 1e-4 if name.endswith("key.bias") else 1e-5
        assert norm == pytest.approx(official[name], rel=tolerance), name


def test_the_queue_after_eight_steps() -> None:
    _, _, model = train("moco")
    pointer = RECORD["moco"]["steps"][-1]["pointer"]
    expected = newest_first(TENSORS["final_queue"], pointer)
    torch.testing.assert_close(model.queue, expected, rtol=0, atol=1e-5)
    assert model.keys_made == 32


# Crops

WORDS = Vocabulary(5000, 0, 2, 3, 4, frozenset(range(5)))


def document(tokens: int, title: int = 0) -> Passage:
    """Return a document whose ids count up from 100."""
    ids = np.arange(100, 100 + tokens)
    starts = np.ones(tokens, bool)
    return Passage(ids[:title], starts[:title], ids[title:], starts[title:])


def crops(objective: Contriever, passages: list[Passage], max_length: int = 512) -> tuple[list[Any], list[Any]]:
    """Return the ids of the query crops and of the key crops, without special tokens."""
    batch = objective.collate(passages, WORDS, max_length, torch.Generator().manual_seed(0))
    rows = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        row = ids[: int(mask.sum())].tolist()
        assert (row[0], row[-1]) == (WORDS.cls, WORDS.sep)
        rows.append(row[1:-1])
    assert len(rows) == 2 * len(passages)
    return rows[: len(passages)], rows[len(passages) :]


def test_lengths_and_deletions_are_the_official_ones() -> None:
    recorded = RECORD["crops"]
    passages = [document(256)] * recorded["draws"]
    queries, keys = crops(Contriever(deletion=0.0), passages)
    for side in (queries, keys):
        lengths = [len(crop) for crop in side]
        assert (min(lengths), max(lengths)) == (recorded["lengths"][0], recorded["lengths"][2])
        assert np.mean(lengths) == pytest.approx(recorded["lengths"][1], abs=2.5)  # 33 / sqrt(2000) is 0.7
        for crop in side:
            assert crop == list(range(crop[0], crop[0] + len(crop))), "consecutive tokens"
        assert min(crop[0] for crop in side) < 105
        assert max(crop[-1] for crop in side) > 350
    assert queries != keys
    thinned, _ = crops(Contriever(min_crop=0.5), passages)  # 128 tokens each
    kept = sum(map(len, thinned)) / (128 * len(passages))
    assert kept == pytest.approx(recorded["kept_fraction"], abs=0.003)


def test_both_crops_are_of_one_window() -> None:
    whole = Contriever(min_crop=1.0, max_crop=1.0, deletion=0.0)
    queries, keys = crops(whole, [document(1000, title=3)] * 50)
    assert queries == keys
    assert {len(crop) for crop in queries} == {256}
    firsts = {crop[0] for crop in queries}
    assert len(firsts) > 40, "each visit draws a window"
    ((short,), _) = crops(whole, [document(20, title=3)])
    assert short == list(range(100, 120)), "the title comes first"


def test_crops_may_be_empty_and_are_cut_to_the_longest_text() -> None:
    for text in (document(0), document(1)):
        assert crops(Contriever(), [text]) == ([[]], [[]])
    queries, _ = crops(Contriever(min_crop=0.5, deletion=0.0), [document(256)], max_length=24)
    assert len(queries[0]) == 22


def test_documents_without_a_crop_are_no_examples() -> None:
    documents, lengths = Contriever().examples(np.array([0, 1, 2, 3, 100, 1000]), 512)
    assert documents.tolist() == [3, 4, 5]
    assert lengths.tolist() == [3, 52, 130]


# The queue


def small_queue(rows: int) -> tuple[Contriever, Pretraining]:
    objective = Contriever(queue=rows)
    return objective, wrapped(objective, Backbone(BertForMaskedLM.from_pretrained(BASE)))


@pytest.mark.parametrize(("rows", "expected"), [(3, [6, 7, 8]), (7, [6, 7, 8, 9, 10, 1, 2]), (10, range(6, 11))])
def test_a_queue_takes_any_batch(rows: int, expected: Any) -> None:
    objective, model = small_queue(rows)
    for first in (1.0, 6.0):
        keys = torch.arange(first, first + 5)[:, None].expand(-1, 32)
        step = objective.couple(model, 0.0, torch.stack([keys, keys], 1))
    queue = cast(Tensor, model.queue)
    assert queue.shape == (rows, 32)
    assert queue[: len(expected), 0].tolist() == list(expected)
    assert step.metrics["queue_filled"] == min(1.0, 5 / rows), "as the step found it"


class Computed(NamedTuple):
    """A step, and which encoders ran in it."""

    calls: list[str]
    loss: float
    norms: dict[str, float]
    queue: Tensor


def compute(batches: list[dict[str, Tensor]]) -> Computed:
    """Make a step with a shard for each batch, and take its gradient."""
    model = start("normalised")
    calls: list[str] = []
    key_encoder = cast(Backbone, model.key_encoder)
    key_encoder.lm.bert.register_forward_hook(lambda *_: calls.append("key"))
    model.backbone.lm.bert.register_forward_hook(lambda *_: calls.append("query"))
    shards = [Shard(np.arange(len(batch["input_ids"]) // 2), 0, batch, 0.0) for batch in batches]
    loss = Coupled("contriever", model)(0.0, shards).losses["contrastive"]
    loss.backward()
    return Computed(calls, loss.item(), gradient_norms(model), cast(Tensor, model.queue))


def test_shards_change_nothing_and_keys_are_encoded_once() -> None:
    """A backward pass that computes shards again stops behind the queries."""
    batch = recorded_batch(0)
    halves = []
    for rows in ([0, 1, 4, 5], [2, 3, 6, 7]):
        halves.append({name: tensor[rows] for name, tensor in batch.items()})
    whole, cut = compute([batch]), compute(halves)
    assert sorted(whole.calls) == ["key", "query"]
    assert sorted(cut.calls) == ["key"] * 2 + ["query"] * 4
    assert cut.loss == pytest.approx(whole.loss, rel=1e-4)
    assert cut.norms == pytest.approx(whole.norms, rel=1e-3, abs=1e-7)
    torch.testing.assert_close(cut.queue, whole.queue)
