"""The losses over the vocabulary against their dense computation, and how little of the logits they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForMaskedLM

from retrobench.model import heads
from retrobench.model.backbones import Backbone
from retrobench.model.heads import bag_loss, bag_of_words, draw_words, pooled_logits, token_loss

TEXTS, LENGTH, WIDTH, WORDS = 4, 9, 16, 50

Loss = Callable[[Backbone, Tensor], Tensor]


@pytest.fixture(params=[1, 3, 7, 10_000], ids=lambda rows: f"{rows} at once")
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Limit how many rows of logits may be held."""
    rows_per_block = int(request.param)
    monkeypatch.setattr(heads, "_rows_per_block", lambda rows, words: rows_per_block)
    return rows_per_block


def backbone(words: int = WORDS) -> Backbone:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=words, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    bert = Backbone(BertForMaskedLM(config))
    for parameter in bert.parameters():  # zero biases and scales of one would hide a term that is left out
        torch.nn.init.normal_(parameter, std=0.5)
    return bert.eval()


def hidden_states(texts: int = TEXTS, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(texts, length, WIDTH, generator=generator)


def gradients(loss: Loss, bert: Backbone, states: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and its gradients by name, that of the hidden states among them."""
    bert.zero_grad()
    leaf = states.clone().requires_grad_()
    value = loss(bert, leaf)
    value.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    slopes = {"states": leaf.grad}
    for name, parameter in bert.named_parameters():
        if parameter.grad is not None:
            slopes[name] = parameter.grad.clone()
    return value.detach(), slopes


def assert_same(ours: Loss, dense: Loss) -> None:
    """Assert that a loss and its gradients equal those of its dense computation."""
    bert = backbone()
    states = hidden_states()
    value, slopes = gradients(ours, bert, states)
    expected, expected_slopes = gradients(dense, bert, states)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    assert set(slopes) == set(expected_slopes) > {"states"}
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, expected_slopes[name], rtol=1e-5, atol=1e-5, msg=name)


def assert_no_gradient(slopes: dict[str, Tensor]) -> None:
    assert {"states", "lm.bert.embeddings.word_embeddings.weight"} <= set(slopes)
    for name, slope in slopes.items():
        assert not slope.any(), name


POSITIONS = torch.tensor([0, 3, 4, 10, 11, 17, 20, 29, 30, 35])
IDS = torch.tensor([7, 7, 0, 49, 3, 12, 12, 12, 30, 31])
KEEP = torch.rand(TEXTS, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.6
KEEP_WITHOUT_A_TEXT = KEEP.clone()
KEEP_WITHOUT_A_TEXT[2] = False
BAG, WEIGHTS = bag_of_words([np.array(row) for row in ([7, 3, 7], [49], [0, 1, 2, 3], [])], "length")


def dense_token_loss(bert: Backbone, states: Tensor) -> Tensor:
    logits = bert.logits(states).flatten(0, 1)
    return F.cross_entropy(logits[POSITIONS], IDS)


def dense_maximum(logits: Tensor, keep: Tensor) -> Tensor:
    """Return each word's largest logit over the kept tokens, and 0 in a text that keeps none: [B, L, V] -> [B, V]."""
    dropped = ~keep[:, :, None]
    largest = logits.masked_fill(dropped, float("-inf")).amax(1)
    return torch.where(keep.any(1, keepdim=True), largest, 0.0)


def dense_bag_loss(bert: Backbone, states: Tensor) -> Tensor:
    logits = dense_maximum(bert.logits(states), KEEP).float()
    target = torch.zeros_like(logits).scatter_add_(1, BAG, WEIGHTS)
    return -(target * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", len(POSITIONS)), ("sum", TEXTS)])
def test_token_loss_equals_cross_entropy(block: int, reduction: str, divisor: int) -> None:
    def ours(bert: Backbone, states: Tensor) -> Tensor:
        return token_loss(bert, states, POSITIONS, IDS, reduction)

    def dense(bert: Backbone, states: Tensor) -> Tensor:
        return dense_token_loss(bert, states) * len(POSITIONS) / divisor

    assert_same(ours, dense)


@pytest.mark.parametrize(
    "keep",
    [KEEP, torch.ones_like(KEEP), KEEP_WITHOUT_A_TEXT],
    ids=["some", "all", "none of a text"],
)
def test_pooled_logits_equal_the_dense_maximum(block: int, keep: Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(TEXTS, WORDS, generator=generator)

    def ours(bert: Backbone, states: Tensor) -> Tensor:
        pooled = pooled_logits(bert, states, keep)
        return (pooled * direction).sum()

    def dense(bert: Backbone, states: Tensor) -> Tensor:
        pooled = dense_maximum(bert.logits(states), keep)
        return (pooled * direction).sum()

    assert_same(ours, dense)


def test_pooled_logits_without_the_heads_transform(block: int) -> None:
    def ours(bert: Backbone, states: Tensor) -> Tensor:
        return pooled_logits(bert, states, KEEP, transform=False).square().sum()

    def dense(bert: Backbone, states: Tensor) -> Tensor:
        logits = states @ bert.word_matrix.T
        return dense_maximum(logits, KEEP).square().sum()

    assert_same(ours, dense)


def test_bag_loss_equals_cross_entropy_with_a_dense_target(block: int) -> None:
    def ours(bert: Backbone, states: Tensor) -> Tensor:
        pooled = pooled_logits(bert, states, KEEP)
        return bag_loss(pooled, BAG, WEIGHTS)

    assert_same(ours, dense_bag_loss)


def test_a_loss_may_be_scaled(block: int) -> None:
    """Assert that the backward scales the gradient made in the forward, as shards need."""

    def ours(bert: Backbone, states: Tensor) -> Tensor:
        return 0.25 * token_loss(bert, states, POSITIONS, IDS)

    def dense(bert: Backbone, states: Tensor) -> Tensor:
        return 0.25 * dense_token_loss(bert, states)

    assert_same(ours, dense)


def test_words_are_drawn_from_the_softmax(block: int) -> None:
    """Draw 4,000 words at each of two positions; a count differs by 5 standard errors in one of a million draws."""
    bert = backbone()
    states = hidden_states()
    draws, allowed = 4000, 40
    positions = torch.tensor([3, 20]).repeat(draws)
    torch.manual_seed(0)
    with torch.no_grad():
        words = draw_words(bert, states, positions, allowed).view(draws, 2)
        logits = bert.logits(states).flatten(0, 1)[[3, 20]]
    shares = torch.stack([words[:, row].bincount(minlength=WORDS) for row in range(2)]) / draws
    expected = logits[:, :allowed].softmax(1)
    errors = (expected * (1 - expected) / draws).sqrt()
    assert not shares[:, allowed:].any()
    assert ((shares[:, :allowed] - expected).abs() <= 5 * errors + 1 / draws).all()
    assert draw_words(bert, states, positions[:0], allowed).shape == (0,)


# Nothing to predict


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_to_predict_gives_zero_and_no_gradient(reduction: str) -> None:
    none = torch.zeros(0, dtype=torch.long)

    def loss(bert: Backbone, states: Tensor) -> Tensor:
        return token_loss(bert, states, none, none, reduction)

    value, slopes = gradients(loss, backbone(), hidden_states())
    assert value == 0
    assert_no_gradient(slopes)


def test_a_text_that_keeps_nothing_gives_zeros_and_no_gradient() -> None:
    bert = backbone()
    states = hidden_states()
    empty, others = 2, [0, 1, 3]
    pooled = pooled_logits(bert, states, KEEP_WITHOUT_A_TEXT)
    assert not pooled[empty].any()
    assert pooled[others].all()

    def loss(bert: Backbone, states: Tensor) -> Tensor:
        return pooled_logits(bert, states, KEEP_WITHOUT_A_TEXT).square().sum()

    _, slopes = gradients(loss, bert, states)
    has_gradient = slopes["states"].any(2).any(1)
    assert has_gradient.tolist() == [True, True, False, True]


def test_texts_that_keep_nothing_have_no_gradient() -> None:
    keep = torch.zeros_like(KEEP)

    def loss(bert: Backbone, states: Tensor) -> Tensor:
        return pooled_logits(bert, states, keep).sum()

    value, slopes = gradients(loss, backbone(), hidden_states())
    assert value == 0
    assert_no_gradient(slopes)


def test_an_empty_bag_has_no_loss() -> None:
    empty = np.zeros(0, np.int64)
    ids, weights = bag_of_words([empty] * TEXTS, "unique")

    def loss(bert: Backbone, states: Tensor) -> Tensor:
        logits = bert.logits(states[:, 0])
        return bag_loss(logits, ids, weights)

    value, slopes = gradients(loss, backbone(), hidden_states())
    assert value == 0
    assert not slopes["states"].any()


# Bags


# Of the texts 20 30 20 20 40, and 9 9, and of an empty one.
BAG_WEIGHTS = {
    "unique": [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 0]],
    "length": [[1 / 5, 1 / 5, 1 / 5], [1 / 2, 0, 0], [0, 0, 0]],
    "frequency": [[3 / 5, 1 / 5, 1 / 5], [1, 0, 0], [0, 0, 0]],
    "one": [[1.0, 1, 1], [1, 0, 0], [0, 0, 0]],
}


@pytest.mark.parametrize("weight", BAG_WEIGHTS)
def test_a_bag_holds_distinct_ids(weight: str) -> None:
    texts = [np.array([20, 30, 20, 20, 40]), np.array([9, 9]), np.zeros(0, np.int64)]
    ids, weights = bag_of_words(texts, weight)
    assert ids.tolist() == [[20, 30, 40], [9, 0, 0], [0, 0, 0]]
    expected = torch.tensor(BAG_WEIGHTS[weight])
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


def test_bag_loss_by_hand() -> None:
    """Compute from logits ln 1, ln 2, ln 3, ln 4, which give the shares .1, .2, .3, .4."""
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0]).log().repeat(2, 1)
    ids, weights = bag_of_words([np.array([1, 3, 3]), np.array([2])], "unique")
    first = -(0.5 * np.log(0.2) + 0.5 * np.log(0.4))
    second = -np.log(0.3)
    loss = bag_loss(logits, ids, weights)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


# Half precision


@pytest.mark.parametrize("rows", [2, 10_000])
def test_autocast_is_finite_and_close(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow for bf16, which keeps 8 bits: sums of 16 products err by some thousandths of the largest."""
    monkeypatch.setattr(heads, "_rows_per_block", lambda _rows, _words: rows)

    def ours(bert: Backbone, states: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            pooled = pooled_logits(bert, states, KEEP)
            assert pooled.dtype == torch.float32
            return token_loss(bert, states, POSITIONS, IDS) + bag_loss(pooled, BAG, WEIGHTS)

    def dense(bert: Backbone, states: Tensor) -> Tensor:
        return dense_token_loss(bert, states) + dense_bag_loss(bert, states)

    bert = backbone()
    states = hidden_states()
    value, slopes = gradients(ours, bert, states)
    expected, expected_slopes = gradients(dense, bert, states)
    torch.testing.assert_close(value, expected, rtol=0.01, atol=0)
    for name, expected_slope in expected_slopes.items():
        slope = slopes[name]
        assert slope.dtype == torch.float32
        assert slope.isfinite().all()
        error = (slope - expected_slope).norm()
        assert error <= 0.05 * expected_slope.norm(), name


# Memory


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest tensor that any operation returns, forward or backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [result]
        if isinstance(result, tuple | list):
            outputs = list(result)
        for output in outputs:
            if isinstance(output, Tensor):
                self.elements = max(self.elements, output.numel())
        return result


def largest(loss: Loss, bert: Backbone, states: Tensor) -> int:
    """Return the size of the largest tensor of a loss and its gradients."""
    watch = Largest()
    with watch:
        gradients(loss, bert, states)
    return watch.elements


def test_logits_of_the_whole_batch_are_never_held() -> None:
    """Use the real blocks, of 2 ** 23 logits on a CPU, for 128 texts of 64 tokens and 2,000 words."""
    texts, length, words = 128, 64, 2000
    all_logits = texts * length * words
    bert = backbone(words)
    states = hidden_states(texts, length)
    positions = torch.arange(texts * length)
    ids = positions % words
    keep = torch.ones(texts, length, dtype=torch.bool)
    bag, weights = bag_of_words([np.arange(text, text + 30) for text in range(texts)], "unique")

    def dense(bert: Backbone, states: Tensor) -> Tensor:
        logits = bert.logits(states).flatten(0, 1)
        return F.cross_entropy(logits, ids)

    def of_tokens(bert: Backbone, states: Tensor) -> Tensor:
        return token_loss(bert, states, positions, ids)

    def of_bags(bert: Backbone, states: Tensor) -> Tensor:
        pooled = pooled_logits(bert, states, keep)
        return bag_loss(pooled, bag, weights)

    assert largest(dense, bert, states) == all_logits  # the watch sees them
    assert largest(of_tokens, bert, states) <= 2**23 < all_logits
    assert texts * words < largest(of_bags, bert, states) <= 2**23


def test_only_the_rows_that_are_predicted_are_projected() -> None:
    words = 2000
    positions = torch.arange(0, 2048, 7)
    ids = positions % words

    def loss(bert: Backbone, states: Tensor) -> Tensor:
        return token_loss(bert, states, positions, ids)

    elements = largest(loss, backbone(words), hidden_states(32, 64))
    assert elements == len(positions) * words
