"""Training and encoding in fp16 on a GPU, real or rehearsed: scaled losses, skipped steps, resuming, waits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import torch
import works
from contexts import wrapped
from torch import Tensor
from trainings import SETTINGS, Interrupted, LeastSquares, checkpoint_names, fit, log, logged

from retrobench import Passage, Vocabulary
from retrobench.config import Reading, Representations, ResolvedPrecision
from retrobench.config.track import Optimisation
from retrobench.data import TokenisedTexts
from retrobench.errors import DivergedError
from retrobench.model import Encoder, autocast, load_backbone
from retrobench.model.heads import _word_gradient
from retrobench.retrieval import write_vectors
from retrobench.retrieval.vectors import Vectors
from retrobench.runs.sweep import Request, sweep
from retrobench.training import Batches, Candidates, Contrastive, ContrastiveBatches, Loop, train
from retrobench_dupmae import DupMAE

if not torch.cuda.is_available():
    pytest.skip("fp16 needs a GPU", allow_module_level=True)

if "RETROBENCH_REHEARSAL" in os.environ:  # torch has this product for GPUs alone

    @torch.library.impl("aten::mm.dtype", "CUDA")
    def multiply(left: Tensor, right: Tensor, out_dtype: torch.dtype) -> Tensor:
        return left.to(out_dtype) @ right.to(out_dtype)


VOCABULARY = Vocabulary(153, 0, 2, 3, 4, frozenset({0, 1, 2, 3, 4}))
FP16: dict[str, object] = {"precision": "fp16", "schedule": "constant", "warmup": 0.0}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    return tiny.make(tmp_path_factory.mktemp("fp16"))


def passages() -> list[Passage]:
    """Return 16 passages without titles."""
    random = np.random.default_rng(0)
    no_title = np.zeros(0, np.uint16)
    no_starts = np.zeros(0, np.bool_)
    drawn = []
    for length in random.integers(4, 20, 16):
        ids = random.integers(5, 153, length).astype(np.uint16)
        drawn.append(Passage(no_title, no_starts, ids, random.random(length) < 0.8))
    return drawn


def pretrain(base: Path, folder: Path, precision: ResolvedPrecision, stop: int = -1) -> DupMAE:
    """Pre-train DupMAE on the 16 passages for 6 steps of two shards; batch number `stop` raises."""
    texts = passages()
    objective = DupMAE()
    torch.manual_seed(3)
    model = wrapped(objective, *load_backbone(base, trains=True))
    settings = replace(SETTINGS, steps=6, shards=2, precision=precision, checkpoint_every=2)
    calls = 0

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        nonlocal calls
        if calls == stop:
            raise Interrupted
        calls += 1
        return objective.collate([texts[row] for row in rows], VOCABULARY, 24, generator)

    folder.mkdir(exist_ok=True)
    batches = Batches(np.array([len(text.text) for text in texts]), settings.batch, 0, 5, settings.shards)
    train(model, batches, collate, settings, folder, 5, lambda rows: [], "pretrain toy")
    return objective


def test_losses_are_those_of_fp32(collection: tiny.Tiny, tmp_path: Path) -> None:
    pretrain(collection.base, tmp_path / "fp16", "fp16")
    pretrain(collection.base, tmp_path / "fp32", "fp32")
    for name in ("mlm", "decoder", "bow"):
        expected = logged(tmp_path / "fp32", name)
        assert logged(tmp_path / "fp16", name) == pytest.approx(expected, rel=2e-3)
        assert logged(tmp_path / "fp16", name) != expected, "it was computed in fp16"
    norms = logged(tmp_path / "fp32", "gradient_norm")
    assert logged(tmp_path / "fp16", "gradient_norm") == pytest.approx(norms, rel=1e-2), "gradients are unscaled"
    assert logged(tmp_path / "fp16", "loss_scale") == [2**16] * 6
    assert logged(tmp_path / "fp32", "loss_scale") == []


def overflows_at(progress_of_step: float) -> Callable[[Tensor, float], Tensor]:
    """Return a loss whose gradient overflows float16 in one step, while the loss is finite."""

    def loss(error: Tensor, progress: float) -> Tensor:
        if progress == progress_of_step:
            return error * 1e8
        return error / 64

    return loss


overflowing = overflows_at(0.25)  # in step 1 of 4


def test_an_overflow_skips_the_step_and_halves_the_scale(tmp_path: Path) -> None:
    model = LeastSquares(overflowing)
    fit(model, tmp_path / "four", **FP16, checkpoint_every=1)
    assert logged(tmp_path / "four", "loss_scale") == [2**16, 2**15, 2**15, 2**15]
    norms = logged(tmp_path / "four", "gradient_norm")
    assert norms[1] is None
    assert all(norm > 0 for norm in (norms[0], *norms[2:]))

    # The weights before and after the skipped step are those of two trainings that end there.
    before = LeastSquares(overflowing)
    fit(before, tmp_path / "one", **FP16, steps=1)
    after = LeastSquares(overflows_at(0.5))
    fit(after, tmp_path / "two", **FP16, steps=2)
    assert torch.equal(after.linear.weight, before.linear.weight)
    assert not torch.equal(model.linear.weight, before.linear.weight)


def test_overflows_at_every_step_end_the_training(tmp_path: Path) -> None:
    model = LeastSquares(lambda error, progress: error * 1e12)
    with pytest.raises(DivergedError, match=r"step 16 is not finite .* gradient_norm (inf|nan), loss_scale 0\.5"):
        fit(model, tmp_path, **FP16, steps=40, checkpoint_every=40)
    assert torch.equal(model.linear.weight.cpu(), torch.full((2, 3), 0.5))
    assert logged(tmp_path, "loss_scale") == [2**power for power in range(15, -1, -1)]


def test_a_loss_that_overflows_ends_the_training(tmp_path: Path) -> None:
    model = LeastSquares(lambda error, progress: error * float("inf"))
    with pytest.raises(DivergedError, match="step 0 is not finite"):
        fit(model, tmp_path, **FP16)


def test_resumed_equals_unbroken_bit_for_bit(tmp_path: Path) -> None:
    whole = LeastSquares(overflowing)
    fit(whole, tmp_path / "whole", **FP16)

    def interrupted(error: Tensor, progress: float) -> Tensor:
        if progress == 0.75:
            raise Interrupted
        return overflowing(error, progress)

    with pytest.raises(Interrupted):
        fit(LeastSquares(interrupted), tmp_path / "broken", **FP16)
    assert checkpoint_names(tmp_path / "broken") == ["step-000000002"]
    state = json.loads((tmp_path / "broken" / "step-000000002" / "state.json").read_text())
    assert state["loss_scale"]["scale"] == 2**15
    assert state["loss_scale"]["_growth_tracker"] == 0, "the overflow began the count anew"
    resumed = LeastSquares(overflowing)
    fit(resumed, tmp_path / "broken", **FP16)
    assert resumed.progress == [0.5, 0.75]
    assert torch.equal(resumed.linear.weight, whole.linear.weight)
    assert log(tmp_path / "broken") == log(tmp_path / "whole")


def test_an_objective_is_resumed_bit_for_bit(collection: tiny.Tiny, tmp_path: Path) -> None:
    pretrain(collection.base, tmp_path / "whole", "fp16")
    with pytest.raises(Interrupted):
        pretrain(collection.base, tmp_path / "broken", "fp16", stop=9)
    assert len(checkpoint_names(tmp_path / "broken")) == 2
    pretrain(collection.base, tmp_path / "broken", "fp16")
    assert log(tmp_path / "broken") == log(tmp_path / "whole")


class Round(NamedTuple):
    """A round of fine-tuning, and the settings of its training."""

    batches: ContrastiveBatches
    settings: Optimisation


@pytest.fixture(scope="module")
def contrastive(collection: tiny.Tiny) -> Round:
    dataset_id = f"{collection.data}:train"
    work = works.work(collection.store, dataset_id, base=collection.base)
    examples = works.training_texts(work, dataset_id).examples("query")
    candidates = np.add.outer(5 * np.arange(len(examples)), np.arange(4)) % 58
    reading = Reading(query_length=12, passage_length=40)
    batches = ContrastiveBatches(
        examples, VOCABULARY, reading, Candidates(candidates.astype(np.int32)), 3, gradient_cache=160
    )
    settings = replace(SETTINGS, steps=10, shards=2)
    return Round(batches, settings)


def finetune(
    base: Path,
    round_: Round,
    folder: Path,
    precision: ResolvedPrecision = "fp16",
    temperature: float = 0.01,
    gradient_cache: int = 0,
) -> Contrastive:
    """Fine-tune an encoder, in groups of 160 tokens."""
    torch.manual_seed(1)
    encoder = Encoder(load_backbone(base, trains=True)[0], "cls", Representations())
    model = Contrastive(encoder, temperature, gradient_cache=gradient_cache)
    settings = replace(round_.settings, precision=precision)
    batches = Batches(round_.batches.lengths, settings.batch, 0, 0, settings.shards)
    folder.mkdir()
    names = round_.batches.names
    train(model, batches, round_.batches.collate, settings, folder, 0, names, "finetune toy", couples=True)
    return model


def test_the_gradient_cache_changes_no_bit(collection: tiny.Tiny, contrastive: Round, tmp_path: Path) -> None:
    """A temperature of 0.01 makes gradients a hundred times as large, so the first scales are too large."""
    plain = finetune(collection.base, contrastive, tmp_path / "plain")
    cached = finetune(collection.base, contrastive, tmp_path / "cached", gradient_cache=160)
    assert log(tmp_path / "plain") == log(tmp_path / "cached")
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, cached.state_dict()[name])
    norms = logged(tmp_path / "plain", "gradient_norm")
    assert norms[0] is None
    assert norms[-1] is not None
    assert logged(tmp_path / "plain", "loss_scale")[-1] == 2.0 ** (16 - norms.count(None))


def test_contrastive_gradients_are_those_of_fp32(collection: tiny.Tiny, contrastive: Round, tmp_path: Path) -> None:
    finetune(collection.base, contrastive, tmp_path / "fp16", temperature=1.0)
    finetune(collection.base, contrastive, tmp_path / "fp32", "fp32", temperature=1.0)
    losses = logged(tmp_path / "fp32", "contrastive")
    norms = logged(tmp_path / "fp32", "gradient_norm")
    assert logged(tmp_path / "fp16", "contrastive") == pytest.approx(losses, rel=2e-3)
    assert logged(tmp_path / "fp16", "gradient_norm") == pytest.approx(norms, rel=0.02)


@pytest.fixture
def _reported_waits() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_reported_waits")
def test_a_step_waits_for_nothing() -> None:
    model = LeastSquares(overflowing)
    settings = replace(SETTINGS, steps=4, batch=4, bucket=0, precision="fp16")
    inputs = torch.randn(4, 3)
    batches = Batches(np.ones(16, np.int64), 4, 0, seed=0)
    loop = Loop(model, batches, lambda rows, generator: {"inputs": inputs}, settings, seed=0)
    for step in range(4):
        torch.cuda.set_sync_debug_mode("error")
        _, norm = loop.step(step)
        scale = loop.loss_scale.value()
        torch.cuda.set_sync_debug_mode("default")
        assert scale is not None
        assert bool(norm.isfinite()) is (step != 1)
        assert float(scale) == (2**16 if step == 0 else 2**15)


def test_a_words_gradient_outgrows_fp16() -> None:
    d_logits = torch.ones(1000, 2, dtype=torch.float16, device="cuda")
    rows = torch.full((1000, 3), 100.0, dtype=torch.float16, device="cuda")
    gradient = _word_gradient(d_logits, rows)
    assert gradient.dtype == torch.float32
    assert gradient.tolist() == [[1e5] * 3] * 2


@pytest.mark.parametrize("representation", ["cls", "mean", "cls+terms"])
def test_vectors_are_those_of_fp32(representation: str, collection: tiny.Tiny, tmp_path: Path) -> None:
    dataset_id = f"{collection.data}:train"
    work = works.work(collection.store, dataset_id, base=collection.base)
    source = TokenisedTexts.open(works.training_texts(work, dataset_id).documents.path)
    encoder = Encoder(load_backbone(collection.base)[0], representation, Representations(dense=8, terms=12)).eval()
    vectors = {}
    precisions: tuple[ResolvedPrecision, ...] = ("fp32", "fp16")
    for precision in precisions:
        folder = tmp_path / precision
        folder.mkdir()
        write_vectors(folder, encoder, VOCABULARY, source, kind="passage", max_length=40, precision=precision)
        stored = Vectors.open(folder)
        vectors[precision] = torch.from_numpy(stored.dense(0, len(stored)))
    cosines = torch.cosine_similarity(vectors["fp32"], vectors["fp16"])
    assert cosines.min() > 0.9999
    assert not torch.equal(vectors["fp32"], vectors["fp16"])


def test_auto_is_fp16_from_pretraining_to_the_row_where_bf16_is_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    track = tiny.make(tmp_path)
    precisions = ("pretrain.precision=auto", "finetune.precision=auto")
    overrides = (*precisions, "entrant.representation=cls")
    (row,) = sweep(Request(["dupmae"], str(track.track), (0,), overrides, track.store, track.boards)).rows
    (facts,) = row.facts.values()
    assert facts["precision"] == "fp16"
    trained = list(track.store.glob("*/*/log.jsonl"))
    assert len(trained) == 3, "pre-training and two rounds of fine-tuning"
    for file in trained:
        assert logged(file.parent, "loss_scale")


def test_products_are_in_fp16() -> None:
    rows = torch.ones(2, 2, device="cuda")
    with autocast("cuda", "fp16"):
        assert (rows @ rows).dtype == torch.float16
    with autocast("cuda", "fp32"):
        assert (rows @ rows).dtype == torch.float32
