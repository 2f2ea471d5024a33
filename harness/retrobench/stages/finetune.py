"""Contrastive fine-tuning, the same for every entrant: in-batch negatives, and in the second round mined ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench import checkpoints
from retrobench.data import load, training_pairs
from retrobench.errors import RetrobenchError
from retrobench.experiment import Experiment
from retrobench.masking import pack
from retrobench.objective import Step, Vocabulary
from retrobench.representation import Encoder
from retrobench.stages.start import load_backbone, load_tokenizer, start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.tokens import TokenisedTexts
from retrobench.training import Batches, resolve_precision, seeded, train

__all__ = ["finetune", "load_encoder"]


def finetune(x: Experiment, store: Store, pretrained: Artifact, negatives: Artifact | None = None) -> Artifact:
    """The encoder fine-tuned from `pretrained` on the training queries, or on those that `negatives` were mined for."""
    settings = replace(x.track.finetune, precision=resolve_precision(x.track.finetune.precision))
    beginning = start(x)
    documents = tokenise(store, beginning, settings.queries, "documents", settings.titles)
    queries = tokenise(store, beginning, settings.queries, "queries", sample=x.track.mine.queries if negatives else 0)

    def make(folder: Path) -> dict[str, float]:
        torch.manual_seed(seeded(x.seed, 1))
        backbone, vocabulary = load_backbone(pretrained.path, trains=True)
        encoder = Encoder(backbone, x.entrant.representation, x.track.representation)
        candidates = np.load(negatives.path / "candidates.npy") if negatives else None
        examples = Examples(queries.path, documents.path, settings.queries, candidates)
        round_ = _Round(examples, vocabulary, settings.query_length, settings.passage_length, settings.negatives)
        # Sorted by the positive's length; its padding is what a batch wastes.
        batches = Batches(
            np.minimum(examples.lengths, settings.passage_length), settings.batch, settings.bucket, x.seed
        )
        model = _Contrastive(encoder, settings.temperature)
        label = f"finetune {x.entrant.name}"
        cost = train(model, batches, round_.collate, settings, folder, x.seed, examples.names, label)
        encoder.save(folder, load_tokenizer(beginning.path), settings.passage_length)
        checkpoints.discard(folder)
        return cost

    sizes = asdict(x.track.representation)
    kind = "mined" if negatives else "in-batch"
    recipe = {"round": kind, "representation": x.entrant.representation, **sizes, **asdict(settings), "seed": x.seed}
    sources = [pretrained, documents, queries, *([negatives] if negatives else [])]
    label = f"finetune {x.entrant.name} seed {x.seed} ({kind} negatives)"
    return store.ensure("finetune", recipe, sources, make, resumes=True, label=label)


def load_encoder(x: Experiment, folder: Path) -> tuple[Encoder, Vocabulary]:
    """The fine-tuned encoder in `folder`, ready to embed."""
    backbone, vocabulary = load_backbone(folder)
    encoder = Encoder(backbone, x.entrant.representation, x.track.representation)
    encoder.restore(folder)
    return encoder.eval(), vocabulary


class Examples:
    """Training queries with their positives and candidates for hard negatives, all as row numbers."""

    def __init__(self, queries: Path, documents: Path, dataset_id: str, candidates: np.ndarray | None = None) -> None:
        """The pairs of a dataset among the tokenised queries; `candidates` [E, depth] hold -1 where there is none."""
        self.queries, self.documents = TokenisedTexts.open(queries), TokenisedTexts.open(documents)
        self.candidates = candidates
        row_of = {identifier: row for row, identifier in enumerate(self.documents.ids)}
        query_of = {identifier: row for row, identifier in enumerate(self.queries.ids)}
        pairs = [(query_of[query], found) for query, found in training_pairs(load(dataset_id)) if query in query_of]
        if not pairs:
            raise RetrobenchError(f"Dataset {dataset_id!r} has no query with a relevant document; nothing to train on.")
        self.query_rows = np.asarray([query for query, _ in pairs])
        self.positives = [np.asarray([row_of[document] for document in found]) for _, found in pairs]
        self.lengths = np.asarray([self.documents.lengths[found[0]] for found in self.positives])

    def names(self, rows: np.ndarray) -> list[str]:
        return [f"query {self.queries.ids[self.query_rows[row]]}" for row in rows]


class _Round:
    """Makes the batches of one round."""

    def __init__(
        self, examples: Examples, vocabulary: Vocabulary, query_length: int, passage_length: int, negatives: int
    ) -> None:
        self.examples, self.vocabulary = examples, vocabulary
        self.query_length, self.passage_length = query_length, passage_length
        self.negatives = negatives if examples.candidates is not None else 0

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        """B queries, their B positives first and then B * negatives passages; `rival` [B, P] marks what competes."""
        examples = self.examples
        positives = [_draw(examples.positives[row], 1, generator)[0] for row in rows]
        hard = [negative for row in rows for negative in self._negatives(row, generator)]
        passages = np.asarray([*positives, *hard])
        # A passage that answers the query too is no negative, wherever in the batch it came from.
        rival = np.stack([~np.isin(passages, examples.positives[row]) for row in rows])
        rival[np.arange(len(rows)), np.arange(len(rows))] = True
        queries = [examples.queries[row] for row in examples.query_rows[rows]]
        asked = pack(queries, self.vocabulary, self.query_length)
        read = pack([examples.documents[row] for row in passages], self.vocabulary, self.passage_length)
        return {
            "query_ids": asked.input_ids,
            "query_attention_mask": asked.attention_mask,
            "passage_ids": read.input_ids,
            "passage_attention_mask": read.attention_mask,
            "rival": torch.from_numpy(rival),
        }

    def _negatives(self, row: int, generator: torch.Generator) -> Sequence[int]:
        if not self.negatives or self.examples.candidates is None:
            return []
        candidates = self.examples.candidates[row]
        found = candidates[candidates >= 0]
        return _draw(found, self.negatives, generator) if len(found) else []


def _draw(values: np.ndarray, count: int, generator: torch.Generator) -> Sequence[int]:
    """`count` of the values, without replacement while they last."""
    order = torch.randperm(len(values), generator=generator).numpy()
    return [int(value) for value in np.resize(values[order], count)]


class _Contrastive(nn.Module):
    """InfoNCE: a query's own positive against every rival passage of the batch."""

    def __init__(self, encoder: Encoder, temperature: float) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature

    def forward(
        self,
        progress: float,
        query_ids: Tensor,
        query_attention_mask: Tensor,
        passage_ids: Tensor,
        passage_attention_mask: Tensor,
        rival: Tensor,
    ) -> Step:
        queries = self.encoder(query_ids, query_attention_mask)
        passages = self.encoder(passage_ids, passage_attention_mask)
        scores = self.encoder.similarity(queries, passages) / self.temperature  # [B, P]
        scores = scores.masked_fill(~rival, float("-inf"))
        own = torch.arange(len(scores), device=scores.device)
        hit = (scores.argmax(1) == own).float().mean()
        return Step({"contrastive": F.cross_entropy(scores, own)}, {"accuracy": hit})
