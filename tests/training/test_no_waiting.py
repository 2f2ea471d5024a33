"""No step asks its device anything: on the device "meta", where tensors hold no values, asking for one raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from retrobench import Passage, Vocabulary
from retrobench.model.backbones import Backbone, Pretraining
from retrobench_bow_mae import BowPrediction
from retrobench_dupmae import DupMAE
from retrobench_mlm import MaskedLanguageModelling
from retrobench_retromae import RetroMAE

VOCABULARY = Vocabulary(size=1600, pad=0, cls=101, sep=102, mask=103, special=frozenset(range(999)))


def passages() -> list[Passage]:
    random = np.random.default_rng(0)
    none = np.zeros(0, np.uint16), np.zeros(0, np.bool_)
    return [
        Passage(*none, random.integers(999, 1600, n).astype(np.uint16), random.random(n) < 0.8) for n in (20, 7, 31)
    ]


@pytest.mark.parametrize("kind", [MaskedLanguageModelling, BowPrediction, RetroMAE, DupMAE], ids=lambda kind: kind.name)
def test_a_step_asks_its_device_nothing(
    kind: type[MaskedLanguageModelling | BowPrediction | RetroMAE | DupMAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = kind()
    batch = objective.collate(passages(), VOCABULARY, 32, torch.Generator().manual_seed(0))
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    model = objective.wrap(Backbone(BertForMaskedLM(BertConfig(vocab_size=1600, **shape)))).to("meta").train()
    assert isinstance(model, Pretraining)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # it knows no such device
    step = model(0.5, **{name: value.to("meta") for name, value in batch.items()})
    total = torch.stack(list(step.losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    gradient = model.backbone.word_matrix.grad
    assert total.is_meta and gradient is not None and gradient.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        total.item()
