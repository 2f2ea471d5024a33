"""Losses over the vocabulary that hold logits only for the rows they need. B texts, L tokens, D wide, V words."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from retrobench.model import kernels
from retrobench.model.backbones import Backbone
from retrobench.model.layers import computed

__all__ = ["bag_loss", "bag_of_words", "pooled_logits", "token_loss"]


def token_loss(backbone: Backbone, hidden: Tensor, positions: Tensor, ids: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of the words `ids` [M] at the flattened `positions` [M] of `hidden` [B, L, D].

    The mean over the M positions; "sum" adds them up and divides by the B texts, as the papers write it. Nothing to
    predict gives 0, connected to the graph, so that a batch of empty texts is trained around.
    """
    rows = computed(backbone.transform(hidden.flatten(0, 1).index_select(0, positions)))  # [M, D]
    total: Tensor = _TokenLoss.apply(rows, backbone.word_matrix, backbone.word_bias, ids)  # type: ignore[no-untyped-call]
    return total / (max(positions.numel(), 1) if reduction == "mean" else hidden.shape[0])


def pooled_logits(backbone: Backbone, hidden: Tensor, keep: Tensor, transform: bool = True) -> Tensor:
    """The largest logit of every word over the kept tokens, [B, V] float32 (DupMAE, equations 6 and 7).

    `keep` [B, L] is True where a token takes part. Without `transform` the word matrix alone projects. A text that
    keeps nothing gives zeros.
    """
    # A token left out stands in for the text's first kept one, so that no logit needs masking afterwards.
    first = keep.int().argmax(1, keepdim=True)  # [B, 1]
    source = torch.where(keep, torch.arange(keep.shape[1], device=keep.device), first)  # [B, L]
    # Whole rows by their number: on the way back a device sorts as many keys as are taken, [B, L] and not [B, L, D].
    taken = source + len(source[0]) * torch.arange(len(source), device=keep.device)[:, None]
    hidden = hidden.flatten(0, 1).index_select(0, taken.flatten()).view_as(hidden)
    rows = computed(backbone.transform(hidden) if transform else hidden)  # [B, L, D]
    bias = backbone.word_bias if transform else None
    trains = torch.is_grad_enabled()
    pooled: Tensor = _PooledLogits.apply(rows, backbone.word_matrix, bias, trains)  # type: ignore[no-untyped-call]
    return pooled.masked_fill(~keep.any(1, keepdim=True), 0.0)


def _rows_at_once(rows: Tensor, words: int) -> int:
    """How many rows of logits to hold: so many that what is done once a block, adding up [V, D], does not count."""
    return max(1, (2**25 if rows.is_cpu else 2**30) // (4 * words))


def _texts_at_once(rows: Tensor, words: int) -> int:
    """The same in whole texts [L, D]; on a processor at least one for each thread."""
    least = torch.get_num_threads() if rows.is_cpu else 1
    return max(least, _rows_at_once(rows, words) // rows.shape[1])


class _TokenLoss(torch.autograd.Function):
    """Sum of cross-entropies [M] -> scalar. Loss and gradients are made together, a block of rows at a time."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
        words = weight.to(rows.dtype)  # [V, D]
        total = torch.zeros((), device=rows.device)
        d_rows, d_weight = torch.empty_like(rows), torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        size = _rows_at_once(rows, len(weight))
        for first in range(0, len(rows), size):
            part, target = rows[first : first + size], ids[first : first + size, None]
            logits = part @ words.T  # [block, V]
            if rows.is_cpu and rows.dtype == torch.bfloat16:
                loss, to_bias = kernels.slopes(logits, bias, target[:, 0])
                slope = logits
            else:
                loss, slope, to_bias = _slopes(logits.float(), bias, target)
            total += loss
            if any(ctx.needs_input_grad):
                if d_bias is not None:
                    d_bias += to_bias
                slope = slope.to(rows.dtype)
                d_rows[first : first + size] = slope @ words
                d_weight += slope.T @ part
        ctx.save_for_backward(d_rows, d_weight, d_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_rows, d_weight, d_bias = ctx.saved_tensors
        return d_rows * grads[0], d_weight * grads[0], None if d_bias is None else d_bias * grads[0], None


def _slopes(logits: Tensor, bias: Tensor | None, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the cross-entropies of rows [n, V], and its gradients by the logits, which it overwrites, and the bias."""
    if bias is not None:
        logits += bias
    peak = logits.amax(1, keepdim=True)
    chosen = logits.gather(1, target)
    slope = logits.sub_(peak).exp_()  # in place: the block stays in the cache
    mass = slope.sum(1, keepdim=True)
    loss = (mass.log() + peak - chosen).sum()
    slope.div_(mass).scatter_add_(1, target, torch.full_like(target, -1.0, dtype=slope.dtype))
    return loss, slope, slope.sum(0)


class _PooledLogits(torch.autograd.Function):
    """Max over tokens of the logits, [B, L, D] -> [B, V]; only which token won is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, trains: bool) -> Tensor:
        words = weight.to(rows.dtype)  # [V, D]
        # What is not finite stays so: a comparison passes it over.
        pooled = rows.detach().float().sum((1, 2)).mul(0)[:, None].repeat(1, len(weight))  # [B, V]
        winners = torch.empty(pooled.shape if trains else (0,), device=rows.device, dtype=torch.int32)
        size = _texts_at_once(rows, len(weight))
        for first in range(0, len(rows), size):
            logits = rows[first : first + size] @ words.T  # [block, L, V]
            if rows.is_cpu:
                best, who = kernels.winners(logits)
            else:
                best, who = logits.max(dim=1) if trains else (logits.amax(dim=1), winners)
            pooled[first : first + size] += best
            if trains:
                winners[first : first + size] = who
        ctx.save_for_backward(rows, weight, winners)
        ctx.has_bias = bias is not None
        return pooled if bias is None else pooled.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, winners = ctx.saved_tensors
        slope = grads[0]  # [B, V]
        to_bias = slope.sum(0) if ctx.has_bias else None
        if rows.is_cpu:
            d_rows, d_weight = kernels.scattered(slope, winners, rows, weight)
            return d_rows.to(rows.dtype), d_weight, to_bias, None
        words = weight.to(rows.dtype)
        d_rows, d_weight = torch.empty_like(rows), torch.zeros(words.shape, device=rows.device)
        size = _texts_at_once(rows, len(words))
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            dense = torch.zeros(*part.shape[:2], len(words), dtype=rows.dtype, device=rows.device)  # [block, L, V]
            won = winners[first : first + size, None].long()
            dense.scatter_(1, won, slope[first : first + size, None].to(rows.dtype))
            d_rows[first : first + size] = dense @ words
            d_weight += dense.flatten(0, 1).T @ part.flatten(0, 1)
        return d_rows, d_weight, to_bias, None


def bag_of_words(rows: list[np.ndarray], weight: str) -> tuple[Tensor, Tensor]:
    """Distinct ids [B, U] of each text, and their weights [B, U]; short rows are filled up with weight 0.

    `weight` is "unique" (1 / distinct ids), "length" (1 / ids, counting repeats), "frequency" (its share of the ids) or
    "one" (1 each). A text without words has weights 0 and so no loss.
    """
    bags = [np.unique(row, return_counts=True) for row in rows]
    width = max(1, *(len(ids) for ids, _ in bags))
    ids_of = np.zeros((len(bags), width), dtype=np.int64)
    weights = np.zeros((len(bags), width), dtype=np.float32)
    for row, (ids, counts) in enumerate(bags):
        ids_of[row, : len(ids)] = ids
        each = {"unique": 1 / max(len(ids), 1), "length": 1 / max(counts.sum(), 1), "one": 1.0}
        weights[row, : len(ids)] = counts / max(counts.sum(), 1) if weight == "frequency" else each[weight]
    return torch.from_numpy(ids_of), torch.from_numpy(weights)


def bag_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean over texts of -sum_u weights[u] log softmax(logits)[ids[u]]: logits [B, V], ids and weights [B, U]."""
    log_p = F.log_softmax(logits.float(), dim=-1).gather(1, ids)  # [B, U]
    return -(weights * log_p).sum(-1).mean()
