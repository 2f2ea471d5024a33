"""
A contrastive step beside the padded step of retrieval toolkits: 64 queries, 16 passages each, all of them shared.

* cases         our step beside the padded step
* compare_steps check that both compute equal losses and gradients, on one device or on two
* our_steps     steps of our loop on small batches
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench.bench.frame import (
    Case,
    Floor,
    StepResult,
    Tolerances,
    compute_gradients,
    loss_scale,
    require_equal_steps,
)
from retrobench.bench.loops import Steps
from retrobench.bench.models import BASE, Scale, make_backbone, make_encoder
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, draw_lengths, draw_passages
from retrobench.config import Finetune, Reading, ResolvedPrecision
from retrobench.model import Embeddings, autocast, pack
from retrobench.objective import Passage
from retrobench.plan import arithmetic
from retrobench.training import (
    Batches,
    Candidates,
    Contrastive,
    ContrastiveBatches,
    Examples,
    Loop,
    Shard,
    map_tensors,
    resolve_precision,
)

__all__ = ["cases", "compare_steps", "our_steps"]

QUERY = 32  # tokens of the longest query, as in the papers' recipes
PASSAGE = 144  # tokens of the longest passage
QUERIES = 64  # of a batch that is timed
NEGATIVES = 15  # hard negatives of each of its queries
CHECKED_QUERIES = 8
CHECKED_NEGATIVES = 3
BATCHES = 4  # distinct batches, taken in turn
# A layer of the mini track's base, with dropout: 1,024 padded passages take a processor seconds at this size.
CPU = Scale(1, 128, 4, 512, QUERIES, PASSAGE)
SMALL = Scale(2, 32, 2, 64, CHECKED_QUERIES, PASSAGE)
# Scores of the checked weights are tens, so the rounding of bf16 shows in a softmax.
ROUNDING = Tolerances(0.05, 0.1)


@dataclass(frozen=True)
class _Texts:
    """Tokenised texts in memory, as `ContrastiveBatches` reads them."""

    passages: Sequence[Passage]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(text.text) for text in self.passages])

    def __getitem__(self, row: int) -> Passage:
        return self.passages[row]

    def __len__(self) -> int:
        return len(self.passages)


@dataclass(frozen=True)
class _Examples:
    """One positive for each query, the passage of its number."""

    queries: _Texts
    documents: _Texts

    @property
    def query_rows(self) -> np.ndarray:
        return np.arange(len(self.queries))

    @property
    def positives(self) -> list[np.ndarray]:
        return list(self.query_rows[:, None])

    @property
    def relevant(self) -> list[np.ndarray]:
        return self.positives

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.documents.lengths[rows])

    def __len__(self) -> int:
        return len(self.queries)


def _make_round(queries: int, negatives: int) -> ContrastiveBatches:
    """Make examples of texts as long as MS MARCO's, each with hard negatives of its own."""
    count = BATCHES * queries
    query_lengths = draw_lengths(count, QUERY, mean=9.0)
    passage_lengths = draw_lengths(count * (1 + negatives), PASSAGE)
    query_texts = _Texts(draw_passages(query_lengths))
    passage_texts = _Texts(draw_passages(passage_lengths, seed=1))
    examples = cast(Examples, _Examples(query_texts, passage_texts))
    negative_rows = count + np.arange(count * negatives).reshape(count, negatives)
    reading = Reading(True, QUERY, PASSAGE)
    return ContrastiveBatches(examples, VOCABULARY, reading, Candidates(negative_rows), negatives)


class _PaddedStep:
    """The step of toolkits: a forward of all queries and a forward of all passages, padded to the longest text."""

    def __init__(self, round_: ContrastiveBatches, sizes: Scale, device: str, precision: ResolvedPrecision) -> None:
        self.round = round_
        self.device = device
        self.precision = precision
        self.encoder = make_encoder(make_backbone(sizes, device)).train()
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=1e-5)
        self.number = 0

    def loss(self, rows: np.ndarray) -> tuple[Tensor, int]:
        """Return the loss of the examples of `rows`, and the number of their passages."""
        examples = self.round.examples
        candidates = self.round.candidates
        assert candidates is not None
        negatives = candidates.rows[rows].flatten()
        queries = [examples.queries[row] for row in rows]
        passages = [examples.documents[row] for row in (*rows, *negatives)]
        query_vectors = self._embed(queries, QUERY)
        passage_vectors = self._embed(passages, PASSAGE)
        with autocast(self.device, self.precision):
            scores = query_vectors @ passage_vectors.T
        positives = torch.arange(len(rows), device=scores.device)
        return F.cross_entropy(scores.float(), positives), len(passages)

    def _embed(self, texts: Sequence[Passage], longest: int) -> Tensor:
        packed = pack(texts, VOCABULARY, longest)
        input_ids = packed.input_ids.to(self.device)
        attention_mask = packed.attention_mask.to(self.device)
        with autocast(self.device, self.precision):
            vectors: Embeddings = self.encoder(input_ids, attention_mask)
        assert vectors.dense is not None
        return vectors.dense

    def __call__(self) -> float:
        """Take a step; return its passages."""
        size = len(self.round.rows) // BATCHES
        rows = np.arange(size) + size * (self.number % BATCHES)
        self.number += 1
        loss, count = self.loss(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(count)


class _OurStep:
    """The step of our loop."""

    def __init__(self, round_: ContrastiveBatches, sizes: Scale, device: str) -> None:
        batch = len(round_.rows) // BATCHES
        settings = Finetune(steps=10**6, batch=batch, learning_rate=1e-5)
        encoder = make_encoder(make_backbone(sizes, device))
        model = Contrastive(encoder, 1.0).to(device)  # its count of rivals is a buffer
        batches = Batches(round_.lengths, batch, settings.bucket, seed=0)
        loop = Loop(model, batches, round_.collate, settings, seed=0, couples=True)
        self.steps = Steps(loop)
        self.passages = batch * (1 + round_.negatives)

    def __call__(self) -> float:
        """Take a step; return its passages."""
        self.steps.take(1)
        return float(self.passages)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield our step beside the padded step, in the toolkits' default precision and in ours."""
    sizes = setting.choose(smoke=SMALL, cpu=CPU, cuda=BASE)
    check = cache(partial(compare_steps, setting.device, setting.device, sizes))
    queries, negatives = QUERIES, NEGATIVES
    if setting.smoke:
        queries, negatives = CHECKED_QUERIES, CHECKED_NEGATIVES
    round_ = _make_round(queries, negatives)
    half = resolve_precision("auto")
    peer_precision = half if setting.cuda else "fp32"
    yield _case(setting, sizes, round_, peer_precision, check)
    if setting.cuda or half == "fp32":
        return
    quarter_round = _make_round(queries // 4, negatives)
    case = _case(setting, sizes, quarter_round, half, check)
    yield replace(case, name=f"{case.name} in bf16 on both sides", memory=False, warmups=1)


def _case(
    setting: Setting,
    sizes: Scale,
    round_: ContrastiveBatches,
    peer_precision: ResolvedPrecision,
    check: Callable[[], str],
) -> Case:
    """Return a case, in which the peer computes in a precision of its own."""
    queries = len(round_.rows) // BATCHES
    precision = resolve_precision("auto")
    peer_arithmetic = "fp32" if peer_precision == "fp32" else f"{peer_precision} autocast"
    flops = _flops(round_, sizes)
    return Case(
        name=f"{queries} x {1 + round_.negatives}",
        unit="passages/s",
        ours=_OurStep(round_, sizes, setting.device),
        peer=_PaddedStep(round_, sizes, setting.device, peer_precision),
        peer_name="padded step",
        check=check,
        floor=Floor(flops, precision=precision),
        rounds=7 if setting.cuda else 3,  # on a processor a round takes many seconds
        warmups=0,  # the round that memory is taken in warms up
        note=f"layers {sizes.layers}, width {sizes.hidden}; ours in {precision}, the peer in {peer_arithmetic}",
    )


def _flops(round_: ContrastiveBatches, sizes: Scale) -> float:
    """Return the FLOPs of a passage and its share of the query, on real tokens."""
    examples = round_.examples
    query_lengths = np.minimum(examples.queries.lengths + 2, QUERY)
    passage_lengths = np.minimum(examples.documents.lengths + 2, PASSAGE)
    queries = _training_flops(query_lengths, sizes)
    passages = _training_flops(passage_lengths, sizes)
    return (queries + passages) / len(examples.documents)


def _training_flops(lengths: np.ndarray, sizes: Scale) -> float:
    """Return the FLOPs of training on texts of these lengths in tokens."""
    flops = 0.0
    for length in lengths.tolist():
        flops += length * arithmetic.training(sizes.shape, length)
    return flops


def our_steps(device: str) -> Steps:
    """Return steps of our loop on small batches."""
    round_ = _make_round(CHECKED_QUERIES, CHECKED_NEGATIVES)
    return _OurStep(round_, SMALL, device).steps


def compare_steps(device: str, peer_device: str, sizes: Scale = SMALL) -> str:
    """Compare our step on a device with the padded step on the peer's, both without dropout.

    Returns the differences; UnequalError where losses or gradients differ.
    """
    # Large weights tell texts apart: as models are initialised all vectors are alike, and gradients cancel out.
    sizes = replace(sizes, dropout=0.0, spread=0.2)
    round_ = _make_round(CHECKED_QUERIES, CHECKED_NEGATIVES)
    rows = np.arange(CHECKED_QUERIES)
    padded = _PaddedStep(round_, sizes, peer_device, "fp32")
    loss, _ = padded.loss(rows)
    peer = StepResult(loss, compute_gradients(padded.encoder, loss))
    encoder = make_encoder(make_backbone(sizes, device))
    model = Contrastive(encoder, 1.0).train().to(device)
    round_.gradient_cache = 4 * PASSAGE  # splits even these few texts into several groups
    batch = round_.collate(rows, torch.Generator().manual_seed(0))
    batch = map_tensors(batch, lambda tensor: tensor.to(device))
    shard = Shard(rows, 0, batch, tokens=0.0)

    def ours(precision: ResolvedPrecision) -> StepResult:
        with autocast(device, precision):
            loss = model(0.0, [shard]).losses["contrastive"]
        scale = loss_scale(precision)
        gradients = compute_gradients(model.encoder, scale * loss)
        on_peer_device = {name: gradient.to(peer_device) for name, gradient in gradients.items()}
        return StepResult(loss, on_peer_device, scale)

    return require_equal_steps(ours, peer, ROUNDING)
