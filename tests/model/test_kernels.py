"""The compiled loops against torch's own operations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from retrobench.core.threads import in_threads
from retrobench.model.kernels import cross_entropy, softmax, token_maxima, token_maxima_gradients


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    usual = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield int(request.param)
    torch.set_num_threads(usual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 7, 50), (1, 1, 1), (4, 150, 33)])
def test_token_maxima_equal_torchs(threads: int, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[0, 0, 0] = float("-inf")
    largest, tokens = token_maxima(logits)
    logits_of_tokens = logits.gather(1, tokens[:, None].long())[:, 0]
    assert torch.equal(largest, logits.amax(1).float())
    assert torch.equal(logits_of_tokens.float(), largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equal_maxima_wins(dtype: torch.dtype) -> None:
    logits = torch.tensor([[[1.0, -2.0, 0.0], [1.0, -2.0, -3.0], [0.5, -1.5, 0.0]]])
    largest, tokens = token_maxima(logits.to(dtype))
    assert largest.tolist() == [[1.0, -1.5, 0.0]]
    assert tokens.tolist() == [[0, 2, 0]]


def test_gradients_of_maxima_equal_the_dense_product(threads: int) -> None:
    draw = torch.Generator().manual_seed(1)
    texts, length, words, width = 3, 6, 1030, 8  # more words than one block
    d_maxima = torch.randn(texts, words, generator=draw)
    tokens = torch.randint(length, (texts, words), generator=draw, dtype=torch.int32)
    rows = torch.randn(texts, length, width, generator=draw)
    matrix = torch.randn(words, width, generator=draw)
    d_rows, d_words = token_maxima_gradients(d_maxima, tokens, rows, matrix)
    d_logits = torch.zeros(texts, length, words).scatter_(1, tokens[:, None].long(), d_maxima[:, None])
    torch.testing.assert_close(d_rows, d_logits @ matrix, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d_words, d_logits.flatten(0, 1).T @ rows.flatten(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 33, 100])
def test_cross_entropy_equals_torchs(threads: int, rows: int, biased: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    logits = (4 * torch.randn(rows, 501, generator=draw)).bfloat16()
    targets = torch.randint(501, (rows,), generator=draw)
    exact = logits.double()
    bias = None
    if biased:
        bias = torch.randn(501, generator=draw)
        exact = exact + bias.double()
    exact.requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="sum")
    (expected_slopes,) = torch.autograd.grad(expected, exact)

    loss, d_bias = cross_entropy(logits, bias, targets)  # the slopes overwrite the logits
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(d_bias, expected_slopes.sum(0).float(), rtol=1e-5, atol=1e-5)
    assert (logits.double() - expected_slopes).abs().max() < 2**-8  # half a step of bfloat16 just below 1
    torch.testing.assert_close(logits.double(), expected_slopes, rtol=2**-8, atol=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_logit_makes_the_loss_non_finite(value: float) -> None:
    logits = torch.randn(40, 50).bfloat16()
    logits[35, 7] = value
    loss, _ = cross_entropy(logits, None, torch.zeros(40, dtype=torch.int64))
    assert not loss.isfinite()


def test_words_at_minus_infinity_get_no_probability() -> None:
    logits = torch.zeros(1, 4).bfloat16()
    logits[0, 1:3] = float("-inf")
    loss, _ = cross_entropy(logits, None, torch.tensor([0]))
    assert loss.item() == pytest.approx(0.6931472, rel=1e-6)
    assert logits.tolist() == [[-0.5, 0.0, 0.0, 0.5]]


def results(threads: int) -> list[Tensor]:
    """The numbers of both gradients, computed on some threads."""
    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(2)
    d_maxima = torch.randn(5, 600, generator=draw)
    tokens = torch.randint(4, (5, 600), generator=draw, dtype=torch.int32)
    rows = torch.randn(5, 4, 8, generator=draw)
    matrix = torch.randn(600, 8, generator=draw)
    logits = torch.randn(70, 600, generator=draw).bfloat16()
    maxima = token_maxima_gradients(d_maxima, tokens, rows, matrix)
    losses = cross_entropy(logits, None, torch.arange(70))
    return [*maxima, *losses, logits]


def test_the_number_of_threads_changes_no_bit() -> None:
    usual = torch.get_num_threads()
    single = results(1)
    for threads in (2, 3):
        for alone, shared in zip(single, results(threads), strict=True):
            assert torch.equal(alone, shared)
    torch.set_num_threads(usual)


def test_threads_share_a_whole_range(threads: int) -> None:
    numbers: list[int] = []
    in_threads(lambda first, last: numbers.extend(range(first, last)), 7)
    assert sorted(numbers) == list(range(7))


@pytest.mark.parametrize("length", [1, 7, 150])
@pytest.mark.parametrize("padded", [False, True])
def test_softmax_equals_torchs_rounded(length: int, padded: bool) -> None:
    scores = (8 * torch.randn(3, 2, length, length, generator=torch.Generator().manual_seed(4))).bfloat16()
    keys = torch.ones(3, length, dtype=torch.bool)
    if padded:
        keys[1, length // 2 + 1 :] = False
        keys[2, : length // 2] = False
    hidden = ~keys[:, None, None]  # [B, 1, 1, L]
    expected = (0.3 * scores.float()).masked_fill(hidden, -torch.inf).softmax(-1)
    softmax(scores, 0.3, keys if padded else None)
    torch.testing.assert_close(scores.float(), expected, rtol=2**-8, atol=1e-30)
    assert (scores[hidden.expand_as(scores)] == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_softmax_of_a_non_finite_score_is_non_finite(value: float) -> None:
    scores = torch.zeros(1, 1, 3, 3, dtype=torch.bfloat16)
    scores[0, 0, 1, 2] = value
    softmax(scores, 0.5, None)
    assert scores[0, 0].isfinite().all(1).tolist() == [True, False, True]
