"""No step waits for its device: reading a value raises on the device "meta", where tensors hold no values."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

from retrobench import Passage, Vocabulary
from retrobench.model.backbones import Backbone, Pretraining
from retrobench_bow_mae import BowPrediction
from retrobench_dupmae import DupMAE
from retrobench_mlm import MaskedLanguageModelling
from retrobench_retromae import RetroMAE

VOCABULARY = Vocabulary(size=1600, pad=0, cls=101, sep=102, mask=103, special=frozenset(range(999)))


SHAPE: dict[str, Any] = {"vocab_size": 1600, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 64, "pad_token_id": 0}
MODELS = {
    "bert": BertForMaskedLM(BertConfig(**SHAPE)),
    "modernbert": ModernBertForMaskedLM(ModernBertConfig(**SHAPE)),
}


def passages() -> list[Passage]:
    """Return three passages without titles."""
    random = np.random.default_rng(0)
    no_title = np.zeros(0, np.uint16)
    no_word_starts = np.zeros(0, np.bool_)
    drawn = []
    for length in (20, 7, 31):
        text = random.integers(999, 1600, length).astype(np.uint16)
        word_starts = random.random(length) < 0.8
        drawn.append(Passage(no_title, no_word_starts, text, word_starts))
    return drawn


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("kind", [MaskedLanguageModelling, BowPrediction, RetroMAE, DupMAE], ids=lambda kind: kind.name)
def test_a_step_asks_its_device_nothing(
    kind: type[MaskedLanguageModelling | BowPrediction | RetroMAE | DupMAE],
    family: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective = kind()
    batch = objective.collate(passages(), VOCABULARY, 32, torch.Generator().manual_seed(0))
    batch_on_meta = {name: value.to("meta") for name, value in batch.items()}
    backbone = Backbone(deepcopy(MODELS[family]))
    model = objective.wrap(backbone).to("meta").train()
    assert isinstance(model, Pretraining)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # it knows no such device

    step = model(0.5, **batch_on_meta)
    total = torch.stack(list(step.losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    gradient = model.backbone.word_matrix.grad
    assert total.is_meta
    assert gradient is not None
    assert gradient.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        total.item()
