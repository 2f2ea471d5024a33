"""What fine-tuning goes through: training queries, what answers them, and hard negatives, as rows and as batches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from retrobench.data import Dataset, TokenisedTexts, by_length, load, training_pairs
from retrobench.errors import RetrobenchError
from retrobench.model import pack
from retrobench.objective import Vocabulary

__all__ = ["Candidates", "Examples", "Round", "grouped", "judged"]

GROUP = 8192  # tokens embedded together, padding included


class Examples:
    """Training queries with their positives, as row numbers of tokenised queries and documents; E in number.

    `kind` "query" makes an example of each query, towards any of its positives; "judgement" one of each positive.
    `relevant` holds all that answers an example's query, none of which is ever its negative.
    """

    def __init__(
        self, queries: Path, documents: Path, dataset_id: str, kind: Literal["query", "judgement"] = "query"
    ) -> None:
        self.queries, self.documents = TokenisedTexts.open(queries), TokenisedTexts.open(documents)
        row_of = {identifier: row for row, identifier in enumerate(self.documents.ids)}
        query_of = {identifier: row for row, identifier in enumerate(self.queries.ids)}
        pairs = [(query_of[query], found) for query, found in training_pairs(load(dataset_id)) if query in query_of]
        if not pairs:
            raise RetrobenchError(f"Dataset {dataset_id!r} has no query with a relevant document; nothing to train on.")
        answers = [(query, np.asarray([row_of[document] for document in found])) for query, found in pairs]
        parts = [
            (query, part, found)
            for query, found in answers
            for part in (np.split(found, len(found)) if kind == "judgement" else [found])
        ]
        self.query_rows = np.asarray([query for query, _, _ in parts])  # [E]
        self.positives = [part for _, part, _ in parts]
        self.relevant = [found for _, _, found in parts]

    def __len__(self) -> int:
        return len(self.positives)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of the first positive of some examples."""
        return np.asarray([self.documents.lengths[self.positives[row][0]] for row in rows])


def judged(dataset: Dataset) -> str:
    """What is known of the dataset's judgements, for the keys of stages that read them."""
    return _judged(dataset, dataset.stamp())


@functools.cache  # a run asks several times
def _judged(dataset: Dataset, stamp: tuple[int, ...]) -> str:
    return dataset.qrels_fingerprint()


@dataclass(frozen=True)
class Candidates:
    """Hard negatives of E examples, and what a teacher thinks of them where one was asked."""

    rows: np.ndarray  # [E, D] of the documents; -1 where there is none
    scores: np.ndarray | None = None  # [E, D], NaN where there is none
    positive_scores: np.ndarray | None = None  # [E, P] in the order of the example's positives, likewise

    @classmethod
    def open(cls, folder: Path) -> Candidates:
        """What the stages `negatives`, `mine` and `teach` write."""
        files = [folder / f"{name}.npy" for name in ("candidates", "scores", "positive_scores")]
        return cls(*(np.load(file, mmap_mode="r") for file in files if file.exists()))


class Round:
    """Makes the batches of one round of fine-tuning, with `negatives` hard negatives per query.

    `lacking` says what becomes of a query with too few: see `Finetune.lacking`. Where a teacher was asked, an example
    needs a scored positive and a scored candidate.
    """

    def __init__(
        self,
        examples: Examples,
        vocabulary: Vocabulary,
        query_length: int,
        passage_length: int,
        candidates: Candidates | None = None,
        negatives: int = 0,
        lacking: Literal["repeat", "random", "drop"] = "repeat",
        budget: int = GROUP,
    ) -> None:
        """`budget`: tokens that are embedded together, padding included."""
        self.budget = budget
        self.examples, self.vocabulary, self.candidates = examples, vocabulary, candidates
        self.query_length, self.passage_length = query_length, passage_length
        self.negatives, self.lacking = negatives if candidates is not None else 0, lacking
        self.rows = self._usable()  # of the examples, in their order
        if not len(self.rows):
            raise RetrobenchError("No training query is left that has a hard negative; look at their ids and scores.")
        self.lengths = np.minimum(examples.lengths(self.rows), passage_length)

    def _usable(self) -> np.ndarray:
        every, found = np.arange(len(self.examples)), self.candidates
        if found is None or (found.scores is None and self.lacking != "drop"):
            return every
        kept = (found.rows >= 0).any(1)
        if found.scores is not None and found.positive_scores is not None:
            kept &= np.isfinite(found.scores).any(1) & np.isfinite(found.positive_scores).any(1)
        return every[kept]

    def names(self, rows: np.ndarray) -> list[str]:
        return [f"query {self.examples.queries.ids[self.examples.query_rows[row]]}" for row in self.rows[rows]]

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        """B queries and P passages: the queries' positives first, then `negatives` hard ones of each.

        Queries and passages come in groups of like length, `query_0_ids` with `query_0_attention_mask`, `query_1_ids`
        and so on; `query_place` [B] and `passage_place` [P] say where in the groups, one after the other, each stands.
        `documents` [B * (1 + negatives)] are the passages' row numbers, -1 behind the last; `answers` [B, A] those that
        answer a query, -1 likewise. With a teacher, `group` [B, 1 + negatives] holds the columns of a query's own
        passages and `teacher` its scores.
        """
        rows = self.rows[rows]
        examples = self.examples
        drawn = [self._positive(row, generator) for row in rows]
        hard = [self._negatives(row, generator) for row in rows]
        passages = np.asarray([*(row for row, _ in drawn), *(row for found, _ in hard for row in found)])
        documents = np.full(len(rows) * (1 + self.negatives), -1, np.int64)
        documents[: len(passages)] = passages
        relevant = [examples.relevant[row] for row in rows]
        owner = np.repeat(np.arange(len(rows)), [len(found) for found in relevant])
        answers = grouped(owner, len(rows), np.concatenate(relevant).astype(np.int64), -1)
        batch = {
            **self._grouped("query", examples.queries, examples.query_rows[rows], self.query_length),
            **self._grouped("passage", examples.documents, passages, self.passage_length),
            "documents": torch.from_numpy(documents),
            "answers": torch.from_numpy(answers),
        }
        if self.candidates is not None and self.candidates.scores is not None:
            scores = [[own, *others] for (_, own), (_, others) in zip(drawn, hard, strict=True)]
            batch["teacher"] = torch.tensor(scores, dtype=torch.float32)
            own, others = torch.arange(len(rows))[:, None], torch.arange(len(passages) - len(rows))
            batch["group"] = torch.cat([own, len(rows) + others.view(len(rows), -1)], 1)
        return batch

    def _grouped(self, side: str, texts: TokenisedTexts, rows: np.ndarray, longest: int) -> dict[str, Tensor]:
        batch, order = {}, []
        lengths = np.minimum(texts.lengths[rows] + 2, longest)
        for number, group in enumerate(by_length(lengths, self.budget)):
            packed = pack([texts[row] for row in rows[group]], self.vocabulary, longest)
            batch[f"{side}_{number}_ids"] = packed.input_ids
            batch[f"{side}_{number}_attention_mask"] = packed.attention_mask
            order.append(group)
        batch[f"{side}_place"] = torch.from_numpy(np.argsort(np.concatenate(order)))
        return batch

    def _positive(self, row: int, generator: torch.Generator) -> tuple[int, float]:
        """One of the example's positives, and its score."""
        positives, found = self.examples.positives[row], self.candidates
        if found is None or found.positive_scores is None:
            return int(positives[_draw(len(positives), 1, generator)[0]]), np.nan
        scores = np.asarray(found.positive_scores[row][: len(positives)])
        known = np.flatnonzero(np.isfinite(scores))
        at = known[_draw(len(known), 1, generator)[0]]
        return int(positives[at]), float(scores[at])

    def _negatives(self, row: int, generator: torch.Generator) -> tuple[Sequence[int], Sequence[float]]:
        """The example's hard negatives, and their scores."""
        if not self.negatives or self.candidates is None:
            return [], []
        rows = np.asarray(self.candidates.rows[row])
        scores = None if self.candidates.scores is None else np.asarray(self.candidates.scores[row])
        known = np.flatnonzero((rows >= 0) & (True if scores is None else np.isfinite(scores)))
        if scores is not None:
            at = known[_draw(len(known), self.negatives, generator)]
            return rows[at].tolist(), scores[at].tolist()
        if self.lacking == "random" and len(known) < self.negatives:
            fill = torch.randint(len(self.examples.documents), (self.negatives - len(known),), generator=generator)
            return [*rows[known].tolist(), *fill.tolist()], []
        return rows[known[_draw(len(known), self.negatives, generator)]].tolist() if len(known) else [], []


def _draw(length: int, count: int, generator: torch.Generator) -> np.ndarray:
    """`count` of the numbers below `length`, without replacement while they last."""
    return np.resize(torch.randperm(length, generator=generator).numpy(), count)


def grouped(keys: np.ndarray, count: int, values: np.ndarray, empty: float) -> np.ndarray:
    """Values [M] in rows by their keys [M], each below `count`, in the order they came: [count, most per key]."""
    sizes = np.bincount(keys, minlength=count)
    order = np.argsort(keys, kind="stable")
    starts = np.cumsum(sizes) - sizes
    table = np.full((count, max(1, int(sizes.max(initial=0)))), empty, values.dtype)
    table[keys[order], np.arange(len(keys)) - starts[keys[order]]] = values[order]
    return table
