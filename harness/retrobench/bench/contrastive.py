"""A contrastive step beside the padded one of retrieval toolkits: 64 queries, 16 passages each, all of them shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench.bench.frame import Case, Floor, Setting, gradients, steps_alike
from retrobench.bench.loops import Steps
from retrobench.bench.models import BASE, Scale, backbone, encoder
from retrobench.bench.texts import VOCABULARY, lengths, passages
from retrobench.config import Finetune, Reading
from retrobench.model import Embeddings, pack
from retrobench.objective import Passage
from retrobench.plan import arithmetic
from retrobench.training import (
    Batches,
    Candidates,
    Contrastive,
    ContrastiveBatches,
    Examples,
    Loop,
    map_tensors,
    resolve_precision,
)

__all__ = ["cases"]

QUERY, PASSAGE = 32, 144  # the longest of each, as in the papers' recipes
TRAINED, CHECKED = (64, 15), (8, 3)  # queries, and hard negatives of each
KEPT = 4  # batches that are gone through
# A layer of the mini track's base, with dropout: 1,024 padded passages take a processor seconds at this size.
CPU = Scale(1, 128, 4, 512, TRAINED[0], PASSAGE)
SMALL = Scale(2, 32, 2, 64, CHECKED[0], PASSAGE)


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
        return [np.array([row]) for row in range(len(self.queries))]

    @property
    def relevant(self) -> list[np.ndarray]:
        return self.positives

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.documents.lengths[rows])

    def __len__(self) -> int:
        return len(self.queries)


def _round(queries: int, negatives: int) -> ContrastiveBatches:
    """Examples of made-up texts as long as MS MARCO's, each with hard negatives of its own."""
    count, each = KEPT * queries, 1 + negatives
    asked = passages(lengths(count, QUERY, mean=9.0))
    read = passages(lengths(count * each, PASSAGE), seed=1)
    own = count + np.arange(count * negatives).reshape(count, negatives)
    examples = cast(Examples, _Examples(_Texts(asked), _Texts(read)))
    return ContrastiveBatches(examples, VOCABULARY, Reading(True, QUERY, PASSAGE), Candidates(own), negatives)


class _Padded:
    """The step as toolkits have it: all texts of a batch padded to its longest, one forward each for both sides."""

    def __init__(self, round_: ContrastiveBatches, sizes: Scale, device: str, halved: bool) -> None:
        self.round, self.device, self.halved = round_, device, halved
        self.encoder = encoder(backbone(sizes, device)).train()
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=1e-5)
        self.number = 0

    def loss(self, rows: np.ndarray) -> tuple[Tensor, int]:
        """The loss of some examples, and how many passages they have."""
        of = self.round.examples
        assert self.round.candidates is not None
        hard = np.asarray(self.round.candidates.rows[rows]).reshape(-1)
        read = [of.documents[row] for row in (*rows, *hard)]
        queries, documents = (
            self._embedded(*side) for side in (([of.queries[r] for r in rows], QUERY), (read, PASSAGE))
        )
        with torch.autocast(self.device, torch.bfloat16, enabled=self.halved):
            scores = queries @ documents.T
        return F.cross_entropy(scores.float(), torch.arange(len(rows), device=scores.device)), len(read)

    def _embedded(self, texts: Sequence[Passage], longest: int) -> Tensor:
        packed = pack(texts, VOCABULARY, longest)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.halved):
            found: Embeddings = self.encoder(packed.input_ids.to(self.device), packed.attention_mask.to(self.device))
        assert found.dense is not None
        return found.dense

    def __call__(self) -> float:
        size = len(self.round.rows) // KEPT
        rows = np.arange(size) + size * (self.number % KEPT)
        self.number += 1
        loss, count = self.loss(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(count)


class _Ours:
    """Our loop; a call takes a step and returns its passages."""

    def __init__(self, round_: ContrastiveBatches, sizes: Scale, device: str) -> None:
        batch = len(round_.rows) // KEPT
        settings = Finetune(steps=10**6, batch=batch, learning_rate=1e-5)
        model = Contrastive(encoder(backbone(sizes, device)), 1.0)
        batches = Batches(round_.lengths, batch, settings.bucket, seed=0)
        self.steps = Steps(Loop(model, batches, round_.collate, settings, seed=0))
        self.passages = batch * (1 + round_.negatives)

    def __call__(self) -> float:
        self.steps.take(1)
        return float(self.passages)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield our step beside the padded one in the toolkits' default precision, and beside that in ours."""
    sizes = setting.choose(smoke=SMALL, cpu=CPU, cuda=BASE)
    queries, negatives = CHECKED if setting.smoke else TRAINED
    precision, check = resolve_precision("auto"), cache(lambda: _same_step(sizes, setting.device))
    halves = [setting.cuda] if setting.cuda or precision == "fp32" else [False, True]
    for halved in halves:
        beside = halved and not setting.cuda
        batch = queries // 4 if beside else queries
        round_ = _round(batch, negatives)
        theirs = "bf16 autocast" if halved else "fp32"
        yield Case(
            name=f"{batch} x {1 + negatives}" + (" in bf16 on both sides" if beside else ""),
            unit="passages/s",
            ours=_Ours(round_, sizes, setting.device),
            peer=_Padded(round_, sizes, setting.device, halved),
            peer_name="padded step",
            check=check,
            floor=Floor(_flops(round_, sizes), precision=precision),
            rounds=7 if setting.cuda else 3,  # on a processor each takes many seconds
            memory=not beside,
            warmups=int(beside),  # the round that memory is taken in is one
            note=f"layers {sizes.layers}, width {sizes.hidden}; ours in {precision}, the peer in {theirs}",
        )


def _flops(round_: ContrastiveBatches, sizes: Scale) -> float:
    """For a passage and its share of the query, on real tokens."""
    of, found = round_.examples, 0.0
    for texts, longest in ((of.queries, QUERY), (of.documents, PASSAGE)):
        counts = np.minimum(texts.lengths + 2, longest)
        found += sum(count * arithmetic.training(sizes.shape, count) for count in counts.tolist())
    return found / len(of.documents)


def _same_step(sizes: Scale, device: str) -> str:
    """UnequalError unless both make the same loss and gradients of some queries, without dropout."""
    queries, negatives = CHECKED
    # Weights so large that texts differ: as models are initialised all vectors are alike, and gradients cancel out.
    round_, still = _round(queries, negatives), replace(sizes, dropout=0.0, spread=0.2)
    rows = np.arange(queries)
    padded = _Padded(round_, still, device, halved=False)
    model = Contrastive(encoder(backbone(still, device)), 1.0).train()
    expected, _ = padded.loss(rows)
    round_.gradient_cache = 4 * PASSAGE  # several groups, of so few texts too
    batch = round_.collate(rows, torch.Generator().manual_seed(0))
    batch = map_tensors(batch, lambda tensor: tensor.to(device))

    def ours(halved: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(device, torch.bfloat16, enabled=halved):
            loss = model(0.0, **batch).losses["contrastive"]
        return loss, gradients(model.encoder, loss)

    # Scores of such weights are tens: what bf16 rounds of them shows in a softmax.
    return steps_alike(ours, (expected, gradients(padded.encoder, expected)), (0.05, 0.1))
