"""Representations, similarity and gradients against a plain dense computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from random_encoders import IDS, MASK, REPRESENTATIONS, SIZES, dense, encoder, released_tokenizer, terms
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from retrobench.model.encoder import Embeddings, Encoder, keep_largest


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return released_tokenizer()


def states_and_logits(built: Encoder) -> tuple[Tensor, Tensor]:
    """Return last hidden states and logits as transformers itself computes them."""
    output = built.backbone.lm(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    return output.hidden_states[-1], output.logits


def test_cls(tokenizer: PreTrainedTokenizerFast) -> None:
    built = encoder(tokenizer, "cls")
    vectors = built(IDS, MASK)
    states, _ = states_and_logits(built)
    assert vectors.terms is None
    assert dense(vectors).shape == (3, 32)
    torch.testing.assert_close(vectors.dense, states[:, 0])


def test_mean(tokenizer: PreTrainedTokenizerFast) -> None:
    """Average over [CLS] and [SEP] too, but not over padding."""
    built = encoder(tokenizer, "mean")
    vectors = built(IDS, MASK)
    states, _ = states_and_logits(built)
    means = [states[0].mean(0), states[1, :4].mean(0), states[2, :2].mean(0)]
    assert vectors.terms is None
    torch.testing.assert_close(vectors.dense, torch.stack(means))


@pytest.mark.parametrize("activation", ["raw", "log1p"])
def test_terms(tokenizer: PreTrainedTokenizerFast, activation: Literal["raw", "log1p"]) -> None:
    """Take the largest logit of each word over all real tokens but [CLS]."""
    built = encoder(tokenizer, "terms", replace(SIZES, activation=activation))
    vectors = built(IDS, MASK)
    _, logits = states_and_logits(built)
    largest = [logits[0, 1:].amax(0), logits[1, 1:4].amax(0), logits[2, 1]]
    expected = torch.stack(largest)
    assert expected.min() < 0 < expected.max()
    if activation == "log1p":
        expected = expected.clamp(min=0).log1p()
    assert vectors.dense is None
    assert terms(vectors).shape == (3, 400)
    torch.testing.assert_close(vectors.terms, expected)


def test_cls_and_terms(tokenizer: PreTrainedTokenizerFast) -> None:
    built = encoder(tokenizer, "cls+terms")
    terms_alone = encoder(tokenizer, "terms")
    assert built.projection is not None
    assert built.projection.weight.shape == (8, 32)
    vectors = built(IDS, MASK)
    states, _ = states_and_logits(built)
    projected = states[:, 0] @ built.projection.weight.T
    torch.testing.assert_close(vectors.dense, projected)
    torch.testing.assert_close(vectors.terms, terms_alone(IDS, MASK).terms)


@pytest.mark.parametrize("representation", ["cls", "mean"])
def test_unit_vectors(tokenizer: PreTrainedTokenizerFast, representation: str) -> None:
    plain = encoder(tokenizer, representation)
    normalised = encoder(tokenizer, representation, replace(SIZES, normalize=True))
    vectors = dense(plain(IDS, MASK))
    lengths = vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(dense(normalised(IDS, MASK)), vectors / lengths)


def plain_similarity(vectors: Embeddings, query: int, document: int, count: int) -> float:
    """Return the score of two rows by a loop: a document counts by its `count` largest terms."""
    score = 0.0
    if vectors.dense is not None:
        score += float(vectors.dense[query] @ vectors.dense[document])
    if vectors.terms is not None:
        query_weights = vectors.terms[query].tolist()
        document_weights = vectors.terms[document].tolist()
        pairs = sorted(zip(document_weights, query_weights, strict=True), reverse=True)
        for document_weight, query_weight in pairs[:count]:
            score += SIZES.scale * document_weight * query_weight
    return score


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_similarity(tokenizer: PreTrainedTokenizerFast, representation: str, count: int) -> None:
    """Score documents by their largest terms and queries by all of theirs."""
    built = encoder(tokenizer, representation, replace(SIZES, terms=count, activation="raw"))
    with torch.inference_mode():
        documents = built(IDS, MASK)
        queries = built(IDS[:2], MASK[:2])
    scores = built.similarity(queries, documents)
    assert scores.dtype == torch.float32
    assert scores.shape == (2, 3)
    for query in range(2):
        for document in range(3):
            expected = plain_similarity(documents, query, document, count)
            assert float(scores[query, document]) == pytest.approx(expected, rel=1e-4, abs=1e-4)

    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = built.similarity(queries, documents)
    assert torch.equal(under_autocast, scores)


def test_keep_largest() -> None:
    weights = torch.tensor([[0.0, 3.0, -1.0, 2.0]])
    largest = keep_largest(weights, 2)
    assert largest.indices.tolist() == [[1, 3]]
    assert largest.values.tolist() == [[3.0, 2.0]]
    everything = keep_largest(torch.zeros(2, 4), 9)
    assert everything.indices.shape == (2, 4)


MODULES = {
    "backbone.lm.bert.encoder.layer.0.attention.self.value.weight": "layers",
    "backbone.lm.cls.predictions.transform.dense.weight": "head",
    "backbone.lm.cls.predictions.bias": "head",
    "projection.weight": "projection",
}


def names_with_gradient(built: Encoder) -> set[str]:
    names = set()
    for name, parameter in built.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            names.add(name)
    return names


@pytest.mark.parametrize(
    ("representation", "reached"),
    [
        ("cls", {"layers"}),
        ("mean", {"layers"}),
        ("terms", {"layers", "head"}),
        ("cls+terms", {"layers", "head", "projection"}),
    ],
)
def test_gradients_reach_what_the_representation_reads(
    tokenizer: PreTrainedTokenizerFast, representation: str, reached: set[str]
) -> None:
    built = encoder(tokenizer, representation)
    queries = built(IDS[:2], MASK[:2])
    documents = built(IDS, MASK)
    loss = built.similarity(queries, documents).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    names = names_with_gradient(built)
    for name, module in MODULES.items():
        assert (name in names) == (module in reached), name

    gradient = built.backbone.word_matrix.grad
    assert gradient is not None
    assert gradient[20].any()
    is_absent = torch.ones(400, dtype=torch.bool)
    is_absent[IDS] = False
    assert bool(gradient[is_absent].any()) == ("head" in reached)
