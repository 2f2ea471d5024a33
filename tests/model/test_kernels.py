"""The compiled loops against torch's own operations."""

from __future__ import annotations

import pytest
import torch

from retrobench.core.threads import in_threads
from retrobench.model.kernels import scattered, slopes, softmax, winners


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    request.addfinalizer(lambda: torch.set_num_threads(before))
    return int(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 7, 50), (1, 1, 1), (4, 150, 33)])
def test_winners_are_torchs_maxima(threads: int, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[0, 0, 0] = float("-inf")
    best, who = winners(logits)
    assert torch.equal(best, logits.amax(1).float())
    assert torch.equal(logits.gather(1, who[:, None].long())[:, 0].float(), best)


def test_of_several_winners_the_first() -> None:
    logits = torch.tensor([[[1.0, -2.0, 0.0], [1.0, -2.0, -3.0], [0.5, -1.5, 0.0]]])
    for dtype in (torch.float32, torch.bfloat16):
        best, who = winners(logits.to(dtype))
        assert (best.tolist(), who.tolist()) == ([[1.0, -1.5, 0.0]], [[0, 2, 0]])


def test_scattered_is_the_dense_product(threads: int) -> None:
    draw = torch.Generator().manual_seed(1)
    texts, length, words, width = 3, 6, 1030, 8  # more words than one block
    slope = torch.randn(texts, words, generator=draw)
    who = torch.randint(length, (texts, words), generator=draw, dtype=torch.int32)
    rows, matrix = torch.randn(texts, length, width, generator=draw), torch.randn(words, width, generator=draw)
    d_rows, d_words = scattered(slope, who, rows, matrix)
    dense = torch.zeros(texts, length, words).scatter_(1, who[:, None].long(), slope[:, None])
    torch.testing.assert_close(d_rows, dense @ matrix, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d_words, dense.flatten(0, 1).T @ rows.flatten(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 33, 100])
def test_slopes_are_those_of_cross_entropy(threads: int, rows: int, biased: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    logits, targets = (
        (4 * torch.randn(rows, 501, generator=draw)).bfloat16(),
        torch.randint(501, (rows,), generator=draw),
    )
    bias = torch.randn(501, generator=draw)
    exact = (logits.double() + (bias.double() if biased else 0)).requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact, targets, reduction="sum")
    (by_logits,) = torch.autograd.grad(expected, exact)
    loss, by_bias = slopes(logits, bias if biased else None, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(by_bias, by_logits.sum(0).float(), rtol=1e-5, atol=1e-5)
    assert (logits.double() - by_logits).abs().max() < 2**-8  # half a step of bf16 just below 1
    torch.testing.assert_close(logits.double(), by_logits, rtol=2**-8, atol=1e-9)


@pytest.mark.parametrize("wrong", ["nan", "inf"])
def test_a_logit_that_is_not_finite_spoils_the_loss(wrong: str) -> None:
    logits, targets = torch.randn(40, 50).bfloat16(), torch.zeros(40, dtype=torch.int64)
    logits[35, 7] = float(wrong)
    assert not slopes(logits, None, targets)[0].isfinite()


def test_words_that_are_ruled_out_take_no_share() -> None:
    logits = torch.zeros(1, 4).bfloat16()
    logits[0, 1:3] = float("-inf")
    loss, _ = slopes(logits, None, torch.tensor([0]))
    assert loss.item() == pytest.approx(0.6931472, rel=1e-6)
    assert logits.tolist() == [[-0.5, 0.0, 0.0, 0.5]]


def test_the_number_of_threads_changes_no_bit() -> None:
    draw = torch.Generator().manual_seed(2)
    slope, who = torch.randn(5, 600, generator=draw), torch.randint(4, (5, 600), generator=draw, dtype=torch.int32)
    rows, matrix = torch.randn(5, 4, 8, generator=draw), torch.randn(600, 8, generator=draw)
    found = []
    before = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        logits = torch.randn(70, 600, generator=torch.Generator().manual_seed(4)).bfloat16()
        found.append((*scattered(slope, who, rows, matrix), *slopes(logits, None, torch.arange(70)), logits))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for pair in found[1:] for a, b in zip(pair, found[0], strict=True))


def test_all_of_a_range_is_shared_out(threads: int) -> None:
    seen: list[int] = []
    in_threads(lambda first, last: seen.extend(range(first, last)), 7)
    assert sorted(seen) == list(range(7))


@pytest.mark.parametrize("length", [1, 7, 150])
@pytest.mark.parametrize("padded", [False, True])
def test_softmax_is_torchs_rounded(length: int, padded: bool) -> None:
    scores = (8 * torch.randn(3, 2, length, length, generator=torch.Generator().manual_seed(4))).bfloat16()
    keys = torch.ones(3, length, dtype=torch.bool)
    if padded:
        keys[1, length // 2 + 1 :], keys[2, : length // 2] = False, False
    expected = (0.3 * scores.float()).masked_fill(~keys[:, None, None], -torch.inf).softmax(-1)
    softmax(scores, 0.3, keys if padded else None)
    torch.testing.assert_close(scores.float(), expected, rtol=2**-8, atol=1e-30)
    assert (scores[~keys[:, None, None].expand_as(scores)] == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_softmax_of_what_is_not_finite_is_not(value: float) -> None:
    scores = torch.zeros(1, 1, 3, 3, dtype=torch.bfloat16)
    scores[0, 0, 1, 2] = value
    softmax(scores, 0.5, None)
    assert scores[0, 0].isfinite().all(1).tolist() == [True, False, True]
