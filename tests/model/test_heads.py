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
from retrobench.model.heads import bag_loss, bag_of_words, pooled_logits, token_loss

TEXTS, LENGTH, WIDTH, WORDS = 4, 9, 16, 50

Loss = Callable[[Backbone, Tensor], Tensor]


@pytest.fixture(params=[1, 3, 7, 10_000], ids=lambda rows: f"{rows} at once")
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows of logits may be held."""
    monkeypatch.setattr(heads, "_rows_per_block", lambda rows, words: request.param)
    return int(request.param)


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
    return torch.randn(texts, length, WIDTH, generator=torch.Generator().manual_seed(1))


def gradients(loss: Loss, bert: Backbone, states: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The value, and its gradients by name, all of them: of the states too."""
    bert.zero_grad()
    leaf = states.clone().requires_grad_()
    value = loss(bert, leaf)
    value.backward()  # type: ignore[no-untyped-call]
    by_name = {name: p.grad.clone() for name, p in bert.named_parameters() if p.grad is not None}
    assert leaf.grad is not None
    return value.detach(), {"states": leaf.grad, **by_name}


def assert_same(ours: Loss, dense: Loss, states: Tensor) -> None:
    bert = backbone()
    value, slopes = gradients(ours, bert, states)
    expected, expected_slopes = gradients(dense, bert, states)
    assert set(slopes) == set(expected_slopes) > {"states"}
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, expected_slopes[name], rtol=1e-5, atol=1e-5, msg=name)


POSITIONS = torch.tensor([0, 3, 4, 10, 11, 17, 20, 29, 30, 35])
IDS = torch.tensor([7, 7, 0, 49, 3, 12, 12, 12, 30, 31])
KEEP = torch.rand(TEXTS, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.6
BAG, WEIGHTS = bag_of_words([np.array(row) for row in ([7, 3, 7], [49], [0, 1, 2, 3], [])], "length")


def dense_pooled(bert: Backbone, states: Tensor, keep: Tensor = KEEP) -> Tensor:
    logits = bert.logits(states).masked_fill(~keep[:, :, None], float("-inf"))  # [B, L, V]
    return torch.where(keep.any(1, keepdim=True), logits.amax(1), 0.0)


def dense_bag(logits: Tensor) -> Tensor:
    target = torch.zeros_like(logits, dtype=torch.float32).scatter_add_(1, BAG, WEIGHTS)
    return -(target * logits.float().log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_token_loss_equals_cross_entropy(block: int, reduction: str) -> None:
    def dense(bert: Backbone, states: Tensor) -> Tensor:
        rows = bert.logits(states).flatten(0, 1)[POSITIONS]
        total = F.cross_entropy(rows, IDS, reduction="sum")
        return total / (len(POSITIONS) if reduction == "mean" else TEXTS)

    assert_same(lambda bert, states: token_loss(bert, states, POSITIONS, IDS, reduction), dense, hidden_states())


@pytest.mark.parametrize(
    "keep",
    [KEEP, torch.ones_like(KEEP), KEEP & (torch.arange(TEXTS) != 2)[:, None]],
    ids=["some", "all", "none of a text"],
)
def test_pooled_logits_equal_the_dense_maximum(block: int, keep: Tensor) -> None:
    direction = torch.randn(TEXTS, WORDS, generator=torch.Generator().manual_seed(3))
    assert_same(
        lambda bert, states: (pooled_logits(bert, states, keep) * direction).sum(),
        lambda bert, states: (dense_pooled(bert, states, keep) * direction).sum(),
        hidden_states(),
    )


def test_pooled_logits_without_the_heads_transform(block: int) -> None:
    def dense(bert: Backbone, states: Tensor) -> Tensor:
        logits = (states @ bert.word_matrix.T).masked_fill(~KEEP[:, :, None], float("-inf"))
        return logits.amax(1).square().sum()

    assert_same(
        lambda bert, states: pooled_logits(bert, states, KEEP, transform=False).square().sum(), dense, hidden_states()
    )


def test_bag_loss_equals_cross_entropy_with_a_dense_target(block: int) -> None:
    assert_same(
        lambda bert, states: bag_loss(pooled_logits(bert, states, KEEP), BAG, WEIGHTS),
        lambda bert, states: dense_bag(dense_pooled(bert, states)),
        hidden_states(),
    )


def test_a_loss_may_be_scaled(block: int) -> None:
    """The gradient made in the forward is multiplied by what comes back, as accumulation needs."""
    assert_same(
        lambda bert, states: 0.25 * token_loss(bert, states, POSITIONS, IDS),
        lambda bert, states: 0.25 * F.cross_entropy(bert.logits(states).flatten(0, 1)[POSITIONS], IDS),
        hidden_states(),
    )


# Nothing to predict


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_to_predict_gives_zero_and_no_gradient(reduction: str) -> None:
    none = torch.zeros(0, dtype=torch.long)

    def loss(bert: Backbone, states: Tensor) -> Tensor:
        return token_loss(bert, states, none, none, reduction)

    value, slopes = gradients(loss, backbone(), hidden_states())
    assert value == 0
    assert {"states", "lm.bert.embeddings.word_embeddings.weight"} <= set(slopes)
    assert all(not slope.any() for slope in slopes.values())


def test_a_text_that_keeps_nothing_gives_zeros_and_no_gradient() -> None:
    keep = KEEP.clone()
    keep[1] = False
    bert, states = backbone(), hidden_states()
    pooled = pooled_logits(bert, states, keep)
    assert not pooled[1].any() and pooled[[0, 2, 3]].ne(0).all()
    _, slopes = gradients(lambda m, s: pooled_logits(m, s, keep).square().sum(), bert, states)
    assert not slopes["states"][1].any() and slopes["states"][[0, 2, 3]].any((1, 2)).all()
    value, slopes = gradients(lambda m, s: pooled_logits(m, s, torch.zeros_like(keep)).sum(), bert, states)
    assert value == 0 and all(not slope.any() for slope in slopes.values())


def test_an_empty_bag_has_no_loss() -> None:
    ids, weights = bag_of_words([np.zeros(0, np.int64)] * TEXTS, "unique")
    value, slopes = gradients(lambda m, s: bag_loss(m.logits(s[:, 0]), ids, weights), backbone(), hidden_states())
    assert value == 0 and not slopes["states"].any()


# Bags


# Of the texts 20 30 20 20 40, and 9 9.
BAG_WEIGHTS = {
    "unique": ([1 / 3, 1 / 3, 1 / 3], [1, 0, 0]),
    "length": ([1 / 5, 1 / 5, 1 / 5], [1 / 2, 0, 0]),
    "frequency": ([3 / 5, 1 / 5, 1 / 5], [1, 0, 0]),
    "one": ([1, 1, 1], [1, 0, 0]),
}


@pytest.mark.parametrize("weight", BAG_WEIGHTS)
def test_a_bag_holds_distinct_ids(weight: str) -> None:
    empty = np.zeros(0, np.int64)
    ids, weights = bag_of_words([np.array([20, 30, 20, 20, 40]), np.array([9, 9]), empty], weight)
    assert ids.tolist() == [[20, 30, 40], [9, 0, 0], [0, 0, 0]]
    expected = torch.tensor([*BAG_WEIGHTS[weight], [0, 0, 0]], dtype=torch.float32)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


def test_bag_loss_by_hand() -> None:
    """Logits ln 1, ln 2, ln 3, ln 4 give the shares .1, .2, .3, .4."""
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0]).log().repeat(2, 1)
    ids, weights = bag_of_words([np.array([1, 3, 3]), np.array([2])], "unique")
    expected = -(0.5 * np.log(0.2) + 0.5 * np.log(0.4) + np.log(0.3)) / 2
    assert bag_loss(logits, ids, weights).item() == pytest.approx(expected, rel=1e-6)


# Half precision


@pytest.mark.parametrize("rows", [2, 10_000])
def test_autocast_is_finite_and_close(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 keeps 8 bits: products of 16 terms near 1 err by some thousandths of the largest."""
    monkeypatch.setattr(heads, "_rows_per_block", lambda _rows, _words: rows)

    def ours(bert: Backbone, states: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            pooled = pooled_logits(bert, states, KEEP)
            assert pooled.dtype == torch.float32
            return token_loss(bert, states, POSITIONS, IDS) + bag_loss(pooled, BAG, WEIGHTS)

    def dense(bert: Backbone, states: Tensor) -> Tensor:
        token = F.cross_entropy(bert.logits(states).flatten(0, 1)[POSITIONS], IDS)
        return token + dense_bag(dense_pooled(bert, states))

    bert, states = backbone(), hidden_states()
    value, slopes = gradients(ours, bert, states)
    expected, expected_slopes = gradients(dense, bert, states)
    torch.testing.assert_close(value, expected, rtol=0.01, atol=0)
    for name, slope in expected_slopes.items():
        assert slopes[name].dtype == torch.float32 and slopes[name].isfinite().all()
        assert (slopes[name] - slope).norm() <= 0.05 * slope.norm(), name


# Memory


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest tensor that any operation gives, on the way forward and back."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        bert = out if isinstance(out, tuple | list) else [out]
        self.elements = max(
            [self.elements, *(value_tensor.numel() for value_tensor in bert if isinstance(value_tensor, Tensor))]
        )
        return out


def largest(loss: Loss, bert: Backbone, states: Tensor) -> int:
    noted = Largest()
    with noted:
        gradients(loss, bert, states)
    return noted.elements


def test_logits_of_the_whole_batch_are_never_held() -> None:
    """With the blocks as they are: 2 ** 23 logits on a CPU, for 128 texts of 64 tokens and 2,000 words."""
    texts, length, words = 128, 64, 2000
    bert, states = backbone(words), hidden_states(texts, length)
    everywhere = torch.arange(texts * length)
    ids = everywhere % words
    keep = torch.ones(texts, length, dtype=torch.bool)
    bag, weights = bag_of_words([np.arange(row, row + 30) for row in range(texts)], "unique")
    full = texts * length * words

    def dense(bert: Backbone, states: Tensor) -> Tensor:
        return F.cross_entropy(bert.logits(states).flatten(0, 1), ids)

    assert largest(dense, bert, states) == full  # what is watched is seen
    assert largest(lambda m, s: token_loss(m, s, everywhere, ids), bert, states) <= 2**23 < full
    pooled = largest(lambda m, s: bag_loss(pooled_logits(m, s, keep), bag, weights), bert, states)
    assert texts * words < pooled <= 2**23


def test_only_the_rows_that_are_predicted_are_projected() -> None:
    bert, states = backbone(2000), hidden_states(32, 64)
    few = torch.arange(0, 2048, 7)
    assert largest(lambda m, s: token_loss(m, s, few, few % 2000), bert, states) == len(few) * 2000
