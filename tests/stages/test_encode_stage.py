"""The stage `encode`: its batches equal texts encoded one by one, and its vectors say their origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import works
from bases import MAX_LENGTH, sentences
from random_encoders import REPRESENTATIONS, SIZES, dense, encoder, released_tokenizer, terms
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from retrobench.config import Reading, Representations
from retrobench.data.tokens import TokenisedTexts, vocabulary, write_tokens
from retrobench.errors import RetrobenchError
from retrobench.model.encoder import Embeddings, Encoder, keep_largest
from retrobench.model.masking import pack
from retrobench.retrieval import embedding
from retrobench.retrieval.tokenised import Texts
from retrobench.retrieval.vectors import Terms
from retrobench.retrieval.vectors import Vectors as Stored
from retrobench.stages import Work, encode
from retrobench.store import Artifact

Kind = Literal["passage", "query"]
QUERY_LENGTH = 12
READING = Reading(query_length=QUERY_LENGTH, passage_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return released_tokenizer()


def work_on(folder: Path, representation: str, sizes: Representations = SIZES) -> Work:
    experiment = works.experiment(representation, representation=sizes)
    return works.work(folder / "store", on=experiment)


def artifacts(built: Encoder, tokenizer: PreTrainedTokenizerFast, folder: Path) -> tuple[Artifact, Artifact]:
    """Save an encoder and 42 texts as the stages would have left them."""
    weights = Artifact("encoder", "encoder", folder / "encoder", True, {})
    weights.path.mkdir()
    built.save(weights.path, tokenizer, MAX_LENGTH)
    texts = Artifact("texts", "texts", folder / "texts", True, {})
    texts.path.mkdir()
    write_tokens(texts.path, sentences(40), tokenizer)
    return weights, texts


def embed_one_by_one(
    built: Encoder, tokenizer: PreTrainedTokenizerFast, texts: TokenisedTexts, length: int
) -> list[Embeddings]:
    words = vocabulary(tokenizer, 400)
    rows = []
    for row in range(len(texts)):
        ids, mask, _ = pack([texts[row]], words, length)
        with torch.inference_mode():
            rows.append(built(ids, mask))
    return rows


def without_smaller_terms(weights: Tensor) -> Tensor:
    """Set all weights of a document to zero but its largest."""
    largest = keep_largest(weights, SIZES.terms)
    return torch.zeros_like(weights).scatter(1, largest.indices, largest.values)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize(("window", "tokens"), [(4096, 8192), (7, 100), (10, 1)])
@pytest.mark.parametrize(("kind", "length"), [("passage", MAX_LENGTH), ("query", QUERY_LENGTH)])
def test_encoding_in_batches_equals_one_by_one(
    tokenizer: PreTrainedTokenizerFast,
    representation: str,
    window: int,
    tokens: int,
    kind: Kind,
    length: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Assert that padding and company change only rounding, and that every row stands in its place."""
    monkeypatch.setattr(embedding, "WINDOW", window)
    monkeypatch.setattr(embedding, "TOKENS", {"cpu": tokens, "cuda": tokens})
    built = encoder(tokenizer, representation)
    weights, texts = artifacts(built, tokenizer, tmp_path)
    source = TokenisedTexts.open(texts.path)
    artifact = encode(work_on(tmp_path, representation), weights, texts, kind, READING)
    stored = Stored.open(artifact.path)
    assert stored.ids == source.ids

    rows = embed_one_by_one(built, tokenizer, source, length)
    if built.width:
        expected = torch.cat([dense(row) for row in rows])
        assert_close(stored.dense(0, len(stored)), expected)
    if built.words:
        expected = torch.cat([terms(row) for row in rows])
        if kind == "passage":
            expected = without_smaller_terms(expected)
        stored_terms = stored.terms(0, len(stored))
        assert_close(written_out(stored_terms, 400), expected)
        assert (stored_terms.values > 0).all(), "terms of weight 0 are not stored"

    lengths = np.minimum(source.lengths + 2, length)
    assert artifact.cost["texts"] == len(source)
    assert artifact.cost["tokens"] == lengths.sum()


@pytest.mark.parametrize(
    ("representation", "width", "words"),
    [("cls", 32, 0), ("mean", 32, 0), ("terms", 0, 400), ("cls+terms", 8, 400)],
)
def test_stored_vectors_say_their_origin_and_size(
    tokenizer: PreTrainedTokenizerFast, representation: str, width: int, words: int, tmp_path: Path
) -> None:
    built = encoder(tokenizer, representation)
    assert built.width == width
    assert built.words == words
    weights, texts = artifacts(built, tokenizer, tmp_path)
    work = work_on(tmp_path, representation)
    passages = encode(work, weights, texts, "passage", READING)
    queries = encode(work, weights, texts, "query", READING)
    assert passages.path != queries.path
    for artifact in (passages, queries):
        stored = Stored.open(artifact.path)
        assert stored.width == width
        assert stored.words == words
        assert stored.manifest["representation"] == representation
        assert stored.manifest["model"] == weights.key
        assert stored.manifest["texts"] == texts.key


def written_out(sparse: Terms, words: int) -> np.ndarray:
    """Write sparse rows out, [n, words], and assert that their columns ascend."""
    counts = np.diff(sparse.indptr)
    rows = np.repeat(np.arange(len(counts)), counts)
    in_same_row = np.diff(rows) == 0
    steps = np.diff(sparse.indices)
    assert (steps[in_same_row] > 0).all()
    weights = np.zeros((len(counts), words), np.float32)
    weights[rows, sparse.indices] = sparse.values
    return weights


def assert_close(vectors: np.ndarray, expected: Tensor) -> None:
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("representation", ["cls", "terms"])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_vectors_that_are_not_finite_are_refused(
    tokenizer: PreTrainedTokenizerFast, representation: str, kind: Kind, tmp_path: Path
) -> None:
    built = encoder(tokenizer, representation)
    last_layer = built.backbone.lm.bert.encoder.layer[1]
    torch.nn.init.constant_(last_layer.output.dense.weight, float("nan"))
    weights, texts = artifacts(built, tokenizer, tmp_path)
    work = work_on(tmp_path, representation)
    with pytest.raises(RetrobenchError, match=rf"^The {kind} vector of row 0 and 41 near it are not finite"):
        encode(work, weights, texts, kind, READING)
    folders = (tmp_path / "store" / "encode").glob("*[!k]")
    assert [folder for folder in folders if folder.suffix != ".partial"] == []


@pytest.mark.parametrize("length", [3, QUERY_LENGTH, MAX_LENGTH])
def test_batches_as_they_are_packed(tokenizer: PreTrainedTokenizerFast, length: int, tmp_path: Path) -> None:
    """Assert that the stage packs texts as training does."""
    write_tokens(tmp_path, sentences(30), tokenizer)
    source = TokenisedTexts.open(tmp_path)
    words = vocabulary(tokenizer, 400)
    first, last = 7, 32
    rows = np.asarray([24, 0, 23, 5])
    passages = [source[first + row] for row in rows]
    expected = pack(passages, words, length)

    window = Texts.of(source, first, last, words, length)
    ids, mask = window.batch(rows)
    assert torch.equal(ids, expected.input_ids)
    assert torch.equal(mask, expected.attention_mask)
    assert window.lengths[rows].tolist() == mask.sum(1).tolist()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_in_fewer_bits(
    tokenizer: PreTrainedTokenizerFast, dtype: Literal["float16", "bfloat16"], tmp_path: Path
) -> None:
    """Store the float32 vector rounded once, and change the track's identity."""
    built = encoder(tokenizer, "cls")
    weights, texts = artifacts(built, tokenizer, tmp_path)
    whole_work = work_on(tmp_path, "cls")
    rounded_work = work_on(tmp_path, "cls", replace(SIZES, stored=dtype))
    assert rounded_work.experiment.track.identity != whole_work.experiment.track.identity

    whole = Stored.open(encode(whole_work, weights, texts, "passage", READING).path)
    rounded = Stored.open(encode(rounded_work, weights, texts, "passage", READING).path)
    assert rounded.dtype == dtype
    header = 128
    assert (rounded.folder / "dense.npy").stat().st_size == header + 42 * 32 * 2
    exact = torch.from_numpy(whole.dense(0, 42))
    vectors = torch.from_numpy(rounded.dense(0, 42))
    assert not torch.equal(vectors, exact)
    assert torch.equal(vectors, exact.to(getattr(torch, dtype)).float())
