"""
No forward waits for its device, and none mixes devices: model and batch are on the device "meta".

Its tensors hold no numbers. So reading one raises, and so does an operation whose result's shape depends on numbers.
The rehearsal (`make rehearse`) also sees copies, optimizer steps and operations that sort.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from bases import MAX_LENGTH, Base, make
from batches import shard_of
from contexts import wrapped
from random_encoders import REPRESENTATIONS, SIZES
from torch import Tensor, nn
from transformers import ElectraConfig, ElectraForMaskedLM

from retrobench.config import Distil, Reading, configure_objective, discover, own_settings
from retrobench.data import Dataset
from retrobench.model import Embeddings, Encoder, WordGenerator, draw_words
from retrobench.objective import Objective, Step
from retrobench.training import Candidates, Contrastive, ContrastiveBatches, Examples, forward, map_tensors

FAMILIES = ("bert", "roberta", "modernbert")
ROWS = np.arange(5)
NEGATIVES = 2
READING = Reading(query_length=12, passage_length=MAX_LENGTH)


def presets() -> Iterator[tuple[str, Objective]]:
    """Yield every pre-training objective with its defaults and with each preset."""
    for row in discover():
        if row.objective is not None and row.objective.pretrains:
            for name in ("", *row.objective.presets):
                own = own_settings(row.objective, name or None)
                yield f"{row.name}:{name}".removesuffix(":"), configure_objective(row.objective, own)


PRESETS = dict(presets())


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make("bert", tmp_path_factory.mktemp("only_bert"))


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast knows no such device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda *options, **named_options: nullcontext())


def on_meta(batch: Any) -> Any:
    return map_tensors(batch, lambda tensor: tensor.to("meta"))


def assert_trains(model: nn.Module, step: Step) -> None:
    """Take a backward pass, which stays on the device too."""
    total = torch.stack(list(step.losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) > 10
    assert all(gradient.is_meta for gradient in gradients)
    with pytest.raises(RuntimeError, match="meta"):
        total.item()


def test_a_forward_that_waits_or_mixes_is_seen() -> None:
    numbers = torch.ones(3, device="meta")
    waits = [lambda: numbers[numbers > 0], lambda: numbers.nonzero(), lambda: bool(numbers.all()), numbers.tolist]
    for wait in waits:
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            wait()
    with pytest.raises(RuntimeError, match="device cpu"):
        _ = numbers @ torch.ones(3)


@pytest.mark.parametrize("name", PRESETS)
def test_pre_training(name: str, base: Base) -> None:
    objective: Any = PRESETS[name]
    passages = [base.texts[row] for row in ROWS.tolist()]
    batch: dict[str, Tensor] = objective.collate(passages, base.vocabulary, MAX_LENGTH, torch.Generator())
    model = wrapped(objective, base.backbone(), base.vocabulary).to("meta").train()
    assert_trains(model, forward(objective, model, 0.5, on_meta(batch)))


def test_an_electra_generator(bert: Base) -> None:
    config = ElectraConfig(vocab_size=bert.vocabulary.size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    generator = WordGenerator(ElectraForMaskedLM(config), MAX_LENGTH).to("meta").eval()
    ids = torch.ones(3, 7, dtype=torch.int64, device="meta")
    positions = torch.arange(5, device="meta")
    words = draw_words(generator, generator.hidden(ids, torch.ones_like(ids)), positions, 300)
    assert words.is_meta and words.shape == (5,)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_encoding(representation: str, base: Base) -> None:
    encoder = Encoder(base.backbone(), representation, SIZES).to("meta").eval()
    ids = torch.ones(3, 7, dtype=torch.int64, device="meta")
    embeddings: Embeddings = encoder(ids, torch.ones_like(ids))
    vectors = [tensor for tensor in embeddings if tensor is not None]
    assert vectors
    assert all(tensor.is_meta and len(tensor) == 3 for tensor in vectors)


def batches_of(base: Base, distilled: bool, gradient_cache: int) -> ContrastiveBatches:
    """Return batches whose queries are the texts, each its own positive, with two candidates."""
    qrels = {text_id: {text_id: 1} for text_id in base.texts.ids}
    dataset = cast(Dataset, SimpleNamespace(id="texts", qrels=lambda: qrels))
    examples = Examples(base.texts, base.texts, dataset)
    count = len(examples)
    rows = (np.arange(count, dtype=np.int32)[:, None] + [3, 5]) % count
    candidates = Candidates(rows)
    if distilled:
        candidates = Candidates(rows, np.ones(rows.shape, np.float32), np.ones((count, 1), np.float32))
    return ContrastiveBatches(examples, base.vocabulary, READING, candidates, NEGATIVES, gradient_cache=gradient_cache)


@pytest.mark.parametrize("method", ["plain", "cached", "distilled"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_fine_tuning(representation: str, method: str, bert: Base) -> None:
    gradient_cache = 160 if method == "cached" else 0
    distil = Distil(scores="file", negatives=NEGATIVES) if method == "distilled" else None
    batch = batches_of(bert, method == "distilled", gradient_cache).collate(ROWS, torch.Generator())
    encoder = Encoder(bert.backbone(), representation, SIZES)
    model = Contrastive(encoder, 1.0, distil, gradient_cache).to("meta").train()
    assert_trains(model, model(0.0, [shard_of(on_meta(batch))]))
