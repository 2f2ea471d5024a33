"""Losses over the vocabulary, and draws from it, that compute logits in blocks. B texts, L tokens, D wide, V words."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from retrobench.model import kernels
from retrobench.model.backbones import Backbone
from retrobench.model.layers import to_autocast_dtype
from retrobench.model.masking import exponential_noise

__all__ = ["Head", "bag_loss", "bag_of_words", "draw_words", "pooled_logits", "token_loss"]


class Head(Protocol):
    """A masked-language-modelling head: a backbone's, or one of an objective's own."""

    def transform(self, hidden: Tensor) -> Tensor: ...

    @property
    def word_matrix(self) -> Tensor: ...

    @property
    def word_bias(self) -> Tensor | None: ...


def token_loss(head: Head, hidden: Tensor, positions: Tensor, ids: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of the words `ids` [M] at the flattened `positions` [M] of `hidden` [B, L, D].

    `head`, a backbone or a `WordHead`, computes the logits. `reduction` "mean" divides the sum by M, and "sum" by B, as
    the papers write it. Without positions the loss is 0 but stays in the graph, so a batch of empty texts can be
    trained on.
    """
    selected = hidden.flatten(0, 1).index_select(0, positions)
    rows = to_autocast_dtype(head.transform(selected))  # [M, D]
    total: Tensor = _TokenLoss.apply(rows, head.word_matrix, head.word_bias, ids)  # type: ignore[no-untyped-call]
    if reduction == "mean":
        return total / max(positions.numel(), 1)
    return total / hidden.shape[0]


def draw_words(head: Head, hidden: Tensor, positions: Tensor, words: int) -> Tensor:
    """Draw a word [M] from the head's softmax at each of the flattened `positions` [M] of `hidden` [B, L, D].

    Only the first `words` ids are drawn. The device draws, from its default generator, and the draw has no gradient.
    """
    rows = hidden.flatten(0, 1).index_select(0, positions)
    drawn = []
    for block in torch.split(rows, _rows_per_block(rows, words)):
        logits = F.linear(head.transform(block), head.word_matrix, head.word_bias)[:, :words].detach()
        # The word with the largest logit + Gumbel noise is a draw from the softmax.
        gumbel = exponential_noise(logits).log_().neg_()
        drawn.append(gumbel.add_(logits).argmax(1))
    return torch.cat(drawn)


def pooled_logits(backbone: Backbone, hidden: Tensor, keep: Tensor, transform: bool = True) -> Tensor:
    """Return each word's largest logit over a text's pooled tokens, [B, V] float32 (DupMAE, equations 6 and 7).

    `keep` [B, L] is True at pooled tokens. Without `transform` the word matrix alone projects. A text without pooled
    tokens gives zeros.
    """
    texts, length = keep.shape
    # The text's first pooled token replaces each token that is not pooled, so no logit needs a mask afterwards.
    first = keep.int().argmax(1, keepdim=True)  # [B, 1]
    columns = torch.where(keep, torch.arange(length, device=keep.device), first)  # [B, L]
    # Whole rows are selected by number: the backward pass then sorts [B, L] keys and not [B, L, D].
    first_rows = length * torch.arange(texts, device=keep.device)
    row_numbers = columns + first_rows[:, None]
    rows = hidden.flatten(0, 1).index_select(0, row_numbers.flatten())
    rows = rows.view_as(hidden)  # [B, L, D]
    bias = None
    if transform:
        rows = backbone.transform(rows)
        bias = backbone.word_bias
    rows = to_autocast_dtype(rows)
    trains = torch.is_grad_enabled()
    pooled: Tensor = _PooledLogits.apply(rows, backbone.word_matrix, bias, trains)  # type: ignore[no-untyped-call]
    return pooled.masked_fill(~keep.any(1, keepdim=True), 0.0)


def _rows_per_block(rows: Tensor, words: int) -> int:
    """Return how many rows of logits [V] to compute at once.

    A block is so large that adding [V, D] gradients once per block takes little of the time.
    """
    budget = 2**30  # bytes
    if rows.is_cpu:
        budget = 2**25
    return max(1, budget // (4 * words))


def _texts_per_block(rows: Tensor, words: int) -> int:
    """Return how many texts [L, D] to compute at once: on a processor at least one per thread."""
    texts = _rows_per_block(rows, words) // rows.shape[1]
    if rows.is_cpu:
        return max(torch.get_num_threads(), texts)
    return max(1, texts)


class _TokenLoss(torch.autograd.Function):
    """Sum of cross-entropies [M] -> scalar. The forward pass computes loss and gradients, block by block."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
        words = weight.to(rows.dtype)  # [V, D]
        total = torch.zeros((), device=rows.device)
        d_rows = torch.empty_like(rows)
        d_weight = torch.zeros_like(weight)
        d_bias = None
        if bias is not None:
            d_bias = torch.zeros_like(bias)
        trains = any(ctx.needs_input_grad)
        size = _rows_per_block(rows, len(weight))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            logits = rows[block] @ words.T  # [block, V]
            loss, d_logits, d_bias_block = _cross_entropy(logits, bias, ids[block])
            total += loss
            if not trains:
                continue
            if d_bias is not None:
                d_bias += d_bias_block
            d_logits = d_logits.to(rows.dtype)
            d_rows[block] = d_logits @ words
            d_weight += _word_gradient(d_logits, rows[block])
        ctx.save_for_backward(d_rows, d_weight, d_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_total = grads[0]
        d_rows, d_weight, d_bias = ctx.saved_tensors
        if d_bias is not None:
            d_bias = d_bias * d_total
        return d_rows * d_total, d_weight * d_total, d_bias, None


def _cross_entropy(logits: Tensor, bias: Tensor | None, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropies' sum, and its gradients by `logits` [n, V], which it overwrites, and by `bias` [V]."""
    if logits.is_cpu and logits.dtype == torch.bfloat16:
        loss, d_bias = kernels.cross_entropy(logits, bias, ids)
        return loss, logits, d_bias
    logits = logits.float()
    if bias is not None:
        logits += bias
    targets = ids[:, None]
    peaks = logits.amax(1, keepdim=True)
    target_logits = logits.gather(1, targets)
    d_logits = logits.sub_(peaks).exp_()  # in place: the block stays in the cache
    sums = d_logits.sum(1, keepdim=True)
    loss = (sums.log() + peaks - target_logits).sum()
    d_logits.div_(sums)
    if d_logits.is_cpu:
        d_logits.scatter_add_(1, targets, torch.full_like(targets, -1.0, dtype=d_logits.dtype))
    else:
        columns = torch.arange(d_logits.shape[1], device=d_logits.device)
        d_logits.sub_((columns == targets).to(d_logits.dtype))  # torch's deterministic scatter sorts on a GPU
    return loss, d_logits, d_logits.sum(0)


class _PooledLogits(torch.autograd.Function):
    """Maximum over tokens of the logits, [B, L, D] -> [B, V]. The backward pass needs only each maximum's token."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, trains: bool) -> Tensor:
        words = weight.to(rows.dtype)  # [V, D]
        pooled = _zero_or_nan(rows)[:, None].repeat(1, len(weight))  # [B, V]
        tokens = torch.empty(0, device=rows.device, dtype=torch.int32)
        if trains:
            tokens = torch.empty_like(pooled, dtype=torch.int32)
        size = _texts_per_block(rows, len(weight))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            logits = rows[block] @ words.T  # [block, L, V]
            if rows.is_cpu:
                largest, block_tokens = kernels.token_maxima(logits)
            elif trains:
                largest, block_tokens = logits.max(dim=1)
            else:
                largest = logits.amax(dim=1)
            pooled[block] += largest
            if trains:
                tokens[block] = block_tokens
        ctx.save_for_backward(rows, weight, tokens)
        ctx.has_bias = bias is not None
        if bias is not None:
            pooled.add_(bias)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, tokens = ctx.saved_tensors
        d_pooled = grads[0]  # [B, V]
        d_bias = None
        if ctx.has_bias:
            d_bias = d_pooled.sum(0)
        if rows.is_cpu:
            d_rows, d_weight = kernels.token_maxima_gradients(d_pooled, tokens, rows, weight)
            return d_rows.to(rows.dtype), d_weight, d_bias, None
        words = weight.to(rows.dtype)
        d_rows, d_weight = _maxima_gradients_on_device(d_pooled, tokens, rows, words)
        return d_rows, d_weight, d_bias, None


def _zero_or_nan(rows: Tensor) -> Tensor:
    """Return [B] zeros, but NaN for texts with non-finite rows, which a maximum by comparison would skip."""
    return rows.detach().float().sum((1, 2)).mul(0)


def _maxima_gradients_on_device(d_pooled: Tensor, tokens: Tensor, rows: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of rows [B, L, D] and words [V, D], by a dense product for each block of texts."""
    d_rows = torch.empty_like(rows)
    d_weight = torch.zeros(words.shape, device=rows.device)
    size = _texts_per_block(rows, len(words))
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        block_rows = rows[block]
        length = block_rows.shape[1]
        slopes = d_pooled[block, None].to(rows.dtype)  # [block, 1, V]
        positions = torch.arange(length, dtype=tokens.dtype, device=rows.device)[:, None]
        # A comparison: torch's deterministic scatter sorts on a GPU.
        d_logits = torch.where(positions == tokens[block, None], slopes, slopes.new_zeros(()))  # [block, L, V]
        d_rows[block] = d_logits @ words
        flat_rows = block_rows.flatten(0, 1)
        d_weight += _word_gradient(d_logits.flatten(0, 1), flat_rows)
    return d_rows, d_weight


def _word_gradient(d_logits: Tensor, rows: Tensor) -> Tensor:
    """Return the word matrix's gradient [V, D], given rows [n, D] and the gradient of their logits [n, V].

    The sum over thousands of rows can overflow float16. In `_TokenLoss` it comes before the loss scale is multiplied,
    so no smaller scale would mend it. Hence the sum is given in float32, in which tensor cores add.
    """
    if rows.dtype == torch.float16:
        return torch.mm(d_logits.T, rows, out_dtype=torch.float32)
    return d_logits.T @ rows


def bag_of_words(rows: list[np.ndarray], weight: str) -> tuple[Tensor, Tensor]:
    """Return the distinct ids [B, U] of each text and their weights [B, U]; short rows are padded with weight 0.

    `weight` is "unique" (1 / distinct ids), "length" (1 / ids, counting repeats), "frequency" (an id's share of the
    ids) or "one" (1 per distinct id). A text without words has weights 0 and so no loss.
    """
    bags = [np.unique(row, return_counts=True) for row in rows]
    sizes = [len(ids) for ids, _ in bags]
    width = max(1, *sizes)
    padded_ids = np.zeros((len(bags), width), dtype=np.int64)
    padded_weights = np.zeros((len(bags), width), dtype=np.float32)
    for row, (ids, counts) in enumerate(bags):
        padded_ids[row, : len(ids)] = ids
        padded_weights[row, : len(ids)] = _bag_weights(counts, weight)
    return torch.from_numpy(padded_ids), torch.from_numpy(padded_weights)


def _bag_weights(counts: np.ndarray, weight: str) -> np.ndarray | float:
    """Return the weights of distinct ids that occur `counts` [u] times in a text."""
    distinct = max(len(counts), 1)
    total = max(counts.sum(), 1)
    if weight == "frequency":
        return np.asarray(counts / total)
    weights = {"unique": 1 / distinct, "length": 1 / total, "one": 1.0}
    return float(weights[weight])


def bag_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over texts of -sum_u weights[u] log softmax(logits)[ids[u]].

    `logits` are [B, V], `ids` and `weights` [B, U].
    """
    log_probabilities = F.log_softmax(logits.float(), dim=-1)
    log_likelihoods = (weights * log_probabilities.gather(1, ids)).sum(-1)  # [B]
    return -log_likelihoods.mean()
