"""Fine-tuning on the device, plain, with a gradient cache and from a teacher: equal to the CPU, by strict steps."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from bases import MAX_LENGTH, Base, make
from batches import shard_of
from random_encoders import REPRESENTATIONS, SIZES
from sides import assert_close, gradients, moved, without_dropout

from retrobench.config import Distil, Reading
from retrobench.config.track import Finetune
from retrobench.data import Dataset
from retrobench.model import Encoder
from retrobench.training import (
    Batches,
    Candidates,
    Contrastive,
    ContrastiveBatches,
    Examples,
    deterministic,
    train,
)

FAMILIES = ("bert", "roberta", "modernbert")
METHODS = ("plain", "cached", "distilled")
GROUP = 160  # tokens embedded together with a gradient cache
NEGATIVES = 3
READING = Reading(query_length=12, passage_length=MAX_LENGTH)


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def batches_of(base: Base, method: str) -> ContrastiveBatches:
    """Return batches whose queries are the texts, each its own positive, with candidates and a teacher's scores."""
    qrels = {text_id: {text_id: 1} for text_id in base.texts.ids}
    dataset = cast(Dataset, SimpleNamespace(id="texts", qrels=lambda: qrels))
    examples = Examples(base.texts, base.texts, dataset)
    count = len(examples)
    rows = (np.arange(count)[:, None] + [3, 5, 7, 9]) % count
    scores = positive_scores = None
    if method == "distilled":
        draw = np.random.default_rng(0)
        scores = draw.normal(size=rows.shape).astype(np.float32)
        positive_scores = draw.normal(size=(count, 1)).astype(np.float32)
    candidates = Candidates(rows.astype(np.int32), scores, positive_scores)
    return ContrastiveBatches(
        examples,
        base.vocabulary,
        READING,
        candidates,
        NEGATIVES,
        gradient_cache=GROUP if method == "cached" else 0,
    )


def contrastive(base: Base, representation: str, method: str) -> Contrastive:
    torch.manual_seed(1)
    encoder = Encoder(base.backbone(), representation, SIZES)
    distil = Distil(scores="file", negatives=NEGATIVES) if method == "distilled" else None
    return Contrastive(encoder, 1.0, distil, GROUP if method == "cached" else 0).train()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_losses_and_gradients_are_those_of_the_cpu(representation: str, method: str, base: Base) -> None:
    batch = batches_of(base, method).collate(np.arange(6), torch.Generator().manual_seed(0))
    on_cpu = without_dropout(contrastive(base, representation, method))
    on_device = copy.deepcopy(on_cpu).cuda()
    with deterministic():
        expected = gradients(on_cpu, on_cpu(0.0, [shard_of(batch)]))
        actual = gradients(on_device, on_device(0.0, [shard_of(moved(batch))]))
    assert_close(actual, expected)
    assert on_device.negatives == on_cpu.negatives > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_steps_neither_wait_nor_sort(
    representation: str, method: str, precision: Any, base: Base, tmp_path: Path
) -> None:
    """Dropout is drawn on the device. The device is strict within `Loop.step`."""
    maker = batches_of(base, method)
    model = contrastive(base, representation, method)
    settings = Finetune(steps=2, batch=8, learning_rate=1e-3, precision=precision, shards=2, log_every=1)
    batches = Batches(maker.lengths, settings.batch, settings.bucket, seed=0, shards=settings.shards)
    train(model, batches, maker.collate, settings, tmp_path, 0, maker.names, method, couples=True)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert ("distillation" in lines[0]) == (method == "distilled")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    assert model.negatives > NEGATIVES
