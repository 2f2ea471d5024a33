"""The compiled loops against torch's own operations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from retrobench.core.threads import in_threads
from retrobench.model.heads import _maxima_gradients_on_device
from retrobench.model.kernels import cross_entropy, softmax, token_maxima, token_maxima_gradients


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    usual = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield int(request.param)
    torch.set_num_threads(usual)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("texts", "length", "words"), [(3, 7, 50), (1, 1, 1), (4, 150, 33)])
def test_token_maxima_equal_torchs(threads: int, dtype: torch.dtype, texts: int, length: int, words: int) -> None:
    logits = torch.randn(texts, length, words, generator=seeded(0)).to(dtype)
    logits[0, 0, 0] = float("-inf")
    largest, tokens = token_maxima(logits)
    assert torch.equal(largest, logits.amax(1).float())
    rows = tokens[:, None].long()  # [B, 1, V]
    logits_of_tokens = logits.gather(1, rows)
    assert torch.equal(logits_of_tokens.float(), largest[:, None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equal_maxima_wins(dtype: torch.dtype) -> None:
    by_token = [
        [1.0, -2.0, 0.0],
        [1.0, -2.0, -3.0],
        [0.5, -1.5, 0.0],
    ]
    logits = torch.tensor([by_token], dtype=dtype)
    largest, tokens = token_maxima(logits)
    assert largest.tolist() == [[1.0, -1.5, 0.0]]
    assert tokens.tolist() == [[0, 2, 0]]


def test_gradients_of_maxima_equal_the_dense_product(threads: int) -> None:
    generator = seeded(1)
    texts, length, words, width = 3, 6, 1030, 8  # more words than one block
    d_maxima = torch.randn(texts, words, generator=generator)
    tokens = torch.randint(length, (texts, words), generator=generator, dtype=torch.int32)
    rows = torch.randn(texts, length, width, generator=generator)
    matrix = torch.randn(words, width, generator=generator)
    d_rows, d_words = token_maxima_gradients(d_maxima, tokens, rows, matrix)

    d_logits = torch.zeros(texts, length, words)
    d_logits.scatter_(1, tokens[:, None].long(), d_maxima[:, None])
    expected_rows = d_logits @ matrix
    expected_words = torch.einsum("blv,bld->vd", d_logits, rows)
    torch.testing.assert_close(d_rows, expected_rows, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d_words, expected_words, rtol=1e-5, atol=1e-5)
    # The dense product of a GPU, on the same numbers.
    device_rows, device_words = _maxima_gradients_on_device(d_maxima, tokens, rows, matrix)
    torch.testing.assert_close(device_rows, expected_rows, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(device_words, expected_words, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 33, 100])
def test_cross_entropy_equals_torchs(threads: int, rows: int, biased: bool) -> None:
    generator = seeded(3)
    words = 501
    scores = 4 * torch.randn(rows, words, generator=generator)
    logits = scores.bfloat16()
    targets = torch.randint(words, (rows,), generator=generator)
    exact = logits.double()
    bias = None
    if biased:
        bias = torch.randn(words, generator=generator)
        exact = exact + bias.double()
    exact.requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="sum")
    (expected_slopes,) = torch.autograd.grad(expected, exact)

    loss, d_bias = cross_entropy(logits, bias, targets)
    slopes = logits.double()  # they overwrite the logits
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(d_bias, expected_slopes.sum(0).float(), rtol=1e-5, atol=1e-5)
    largest_error = (slopes - expected_slopes).abs().max()
    assert largest_error < 2**-8  # half a step of bfloat16 just below 1
    torch.testing.assert_close(slopes, expected_slopes, rtol=2**-8, atol=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_logit_makes_the_loss_non_finite(value: float) -> None:
    logits = torch.randn(40, 50).bfloat16()
    logits[35, 7] = value
    targets = torch.zeros(40, dtype=torch.int64)
    loss, _ = cross_entropy(logits, None, targets)
    assert not loss.isfinite()


def test_words_at_minus_infinity_get_no_probability() -> None:
    absent = float("-inf")
    logits = torch.tensor([[0, absent, absent, 0]]).bfloat16()
    loss, _ = cross_entropy(logits, None, torch.tensor([0]))
    assert loss.item() == pytest.approx(0.6931472, rel=1e-6)
    assert logits.tolist() == [[-0.5, 0.0, 0.0, 0.5]]


def results(threads: int) -> list[Tensor]:
    """Return the numbers of both gradients, computed on some threads."""
    torch.set_num_threads(threads)
    generator = seeded(2)
    d_maxima = torch.randn(5, 600, generator=generator)
    tokens = torch.randint(4, (5, 600), generator=generator, dtype=torch.int32)
    rows = torch.randn(5, 4, 8, generator=generator)
    matrix = torch.randn(600, 8, generator=generator)
    logits = torch.randn(70, 600, generator=generator).bfloat16()
    maxima = token_maxima_gradients(d_maxima, tokens, rows, matrix)
    losses = cross_entropy(logits, None, torch.arange(70))
    return [*maxima, *losses, logits]


@pytest.mark.parametrize("count", [2, 3])
def test_the_number_of_threads_changes_no_bit(count: int) -> None:
    usual = torch.get_num_threads()
    single = results(threads=1)
    shared = results(threads=count)
    torch.set_num_threads(usual)
    for expected, result in zip(single, shared, strict=True):
        assert torch.equal(result, expected)


def test_threads_share_a_whole_range(threads: int) -> None:
    numbers: list[int] = []

    def note(first: int, last: int) -> None:
        numbers.extend(range(first, last))

    in_threads(note, 7)
    assert sorted(numbers) == list(range(7))


@pytest.mark.parametrize("length", [1, 7, 150])
@pytest.mark.parametrize("padded", [False, True])
def test_softmax_equals_torchs_rounded(length: int, padded: bool) -> None:
    draws = torch.randn(3, 2, length, length, generator=seeded(4))
    scores = (8 * draws).bfloat16()
    visible = torch.ones(3, length, dtype=torch.bool)
    keys = None
    if padded:
        visible[1, length // 2 + 1 :] = False
        visible[2, : length // 2] = False
        keys = visible
    hidden = ~visible[:, None, None].expand_as(scores)  # [B, H, L, L]
    scaled = 0.3 * scores.float()
    expected = scaled.masked_fill(hidden, -torch.inf).softmax(-1)

    softmax(scores, 0.3, keys)
    torch.testing.assert_close(scores.float(), expected, rtol=2**-8, atol=1e-30)
    assert not scores[hidden].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_softmax_of_a_non_finite_score_is_non_finite(value: float) -> None:
    scores = torch.zeros(1, 1, 3, 3, dtype=torch.bfloat16)
    scores[0, 0, 1, 2] = value
    softmax(scores, 0.5, None)
    is_finite = scores[0, 0].isfinite().all(1)
    assert is_finite.tolist() == [True, False, True]
