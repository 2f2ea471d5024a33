"""Encoding on the device: vectors are those of the CPU, and within a window nothing waits for the device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from bases import MAX_LENGTH, Base, make
from pretend_steps import strict
from published_models import ignore, load, pairs, texts_of, write_models
from random_encoders import REPRESENTATIONS, SIZES
from sentence_transformers import SentenceTransformer
from transformers.models.bert import modeling_bert
from transformers.models.roberta import modeling_roberta

from retrobench.config import ResolvedPrecision
from retrobench.model import Encoder
from retrobench.retrieval import embedding
from retrobench.retrieval.tokenised import write_vectors
from retrobench.retrieval.vectors import Vectors

FAMILIES = ("bert", "roberta", "modernbert")

Kind = Literal["passage", "query"]


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Published encoders that no test changes."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def strict_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise where a batch of a window waits for the device. A window as a whole does, before it is written."""
    monkeypatch.setattr(embedding, "WINDOW", 8)
    monkeypatch.setitem(embedding.TOKENS, "cuda", 120)
    monkeypatch.setattr(embedding, "_embed_batches", strict()(embedding._embed_batches))


def encoder(base: Base, representation: str) -> Encoder:
    torch.manual_seed(1)
    return Encoder(base.backbone(), representation, SIZES).eval()


def write(base: Base, model: Encoder, folder: Path, kind: Kind, precision: ResolvedPrecision = "fp32") -> Vectors:
    folder.mkdir()
    write_vectors(folder, model, base.vocabulary, base.texts, kind=kind, max_length=MAX_LENGTH, precision=precision)
    return Vectors.open(folder)


def dense_of(vectors: Vectors) -> np.ndarray:
    return vectors.dense(0, len(vectors))


def written_out(vectors: Vectors) -> np.ndarray:
    """Return the terms of all texts, [N, V] float32."""
    indptr, indices, values = vectors.terms(0, len(vectors))
    table = np.zeros((len(vectors), vectors.words), np.float32)
    rows = np.repeat(np.arange(len(vectors)), np.diff(indptr))
    table[rows, indices] = values
    return table


@pytest.mark.parametrize("kind", ["passage", "query"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_vectors_are_those_of_the_cpu(
    representation: str, kind: Kind, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_device = write(base, encoder(base, representation), tmp_path / "device", kind)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = write(base, encoder(base, representation), tmp_path / "cpu", kind)
    assert on_device.width == on_cpu.width
    if on_cpu.width:
        np.testing.assert_allclose(dense_of(on_device), dense_of(on_cpu), rtol=1e-4, atol=1e-5)
    if on_cpu.words:
        np.testing.assert_allclose(written_out(on_device), written_out(on_cpu), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_no_batch_of_passages_waits(
    representation: str, precision: ResolvedPrecision, base: Base, tmp_path: Path, strict_windows: None
) -> None:
    vectors = write(base, encoder(base, representation), tmp_path / "vectors", "passage", precision)
    assert len(vectors) == len(base.texts)


def test_only_the_terms_of_queries_wait(base: Base, tmp_path: Path, strict_windows: None) -> None:
    write(base, encoder(base, "cls"), tmp_path / "cls", "query")
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation: aten::nonzero"):
        write(base, encoder(base, "terms"), tmp_path / "terms", "query")


# Choices with which a model reads a passage as its library does without a prompt.
CHOICES: dict[str, dict[str, str]] = {
    "bare": {"pooling": "mean"},
    "roberta": {"pooling": "mean"},
    "mean": {"passage_prefix": ""},
    "silent": {},
    "two": {},
}


@pytest.fixture
def waiting_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the models of transformers wait as they make their masks: they look for padding."""
    for module in (modeling_bert, modeling_roberta):
        make_mask = module.create_bidirectional_mask
        monkeypatch.setattr(module, "create_bidirectional_mask", strict(False)(make_mask))


@pytest.mark.parametrize("name", CHOICES)
def test_published_encoders_give_the_vectors_of_their_library(
    name: str, models: dict[str, Path], tmp_path: Path, strict_windows: None, waiting_masks: None
) -> None:
    """Nothing else waits within a window."""
    ours = load(models[name], similarity="dot", **CHOICES[name])
    assert ours.model.device.type == "cuda"
    ours.write(tmp_path, pairs(21), 21, "passage", ignore)
    theirs = SentenceTransformer(str(models[name]), device="cpu").encode(texts_of(21))
    np.testing.assert_allclose(dense_of(Vectors.open(tmp_path)), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_published_encoders_in_fewer_bits(dtype: str, models: dict[str, Path]) -> None:
    exact = load(models["mean"]).embed(texts_of(21), "passage")
    rounded = load(models["mean"], dtype=dtype).embed(texts_of(21), "passage")
    cosines = (exact * rounded).sum(1)
    assert 0.99 < cosines.min() < cosines.max() < 1.01
    assert not np.array_equal(exact, rounded)


def test_the_device_stands_in_the_key_of_vectors(models: dict[str, Path]) -> None:
    """A window begun on a CPU is never finished on a GPU, whose rounding differs."""
    assert embedding.recipe()["device"] == "cuda"
    assert load(models["mean"]).recipe("query")["device"] == "cuda"
