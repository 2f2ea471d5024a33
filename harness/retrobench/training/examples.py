"""The examples of fine-tuning, training queries with positives and hard negatives, and their batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrobench.config import Reading
from retrobench.data import Dataset, TokenisedTexts, by_length
from retrobench.errors import RetrobenchError
from retrobench.model import pack
from retrobench.objective import Vocabulary

__all__ = ["Candidates", "ContrastiveBatch", "ContrastiveBatches", "Examples", "TextGroup", "TextGroups", "grouped"]

GROUP = 8192  # tokens embedded together, with padding


class Examples:
    """E training queries with their positives, as row numbers of tokenised queries and documents.

    `kind` "query" makes one example per query, with all its positives; "judgement" makes one per positive. `relevant`
    holds all documents that answer an example's query; they are never its negatives.
    """

    def __init__(
        self,
        queries: TokenisedTexts,
        documents: TokenisedTexts,
        dataset: Dataset,
        kind: Literal["query", "judgement"] = "query",
    ) -> None:
        self.queries = queries
        self.documents = documents
        self.positives: list[np.ndarray] = []
        self.relevant: list[np.ndarray] = []
        document_rows = {identifier: row for row, identifier in enumerate(documents.ids)}
        qrels = dataset.qrels()
        query_rows: list[int] = []
        for query_row, query_id in enumerate(queries.ids):
            relevant = _relevant_rows(qrels.get(query_id, {}), document_rows)
            if not len(relevant):
                continue
            groups = [relevant]
            if kind == "judgement":
                groups = np.split(relevant, len(relevant))
            for positives in groups:
                query_rows.append(query_row)
                self.positives.append(positives)
                self.relevant.append(relevant)
        if not query_rows:
            raise RetrobenchError(f"Dataset {dataset.id!r} has no query with a relevant document; nothing to train on.")
        self.query_rows = np.asarray(query_rows)  # [E]

    def __len__(self) -> int:
        return len(self.positives)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the length in tokens of the first positive of each example in `rows`."""
        first_positives = [self.positives[row][0] for row in rows]
        return np.asarray([self.documents.lengths[document] for document in first_positives])

    def relevant_by_query(self) -> dict[int, set[int]]:
        """Return the rows of the documents that answer each query, by the query's row."""
        relevant_by_query = {}
        for query_row, relevant in zip(self.query_rows.tolist(), self.relevant, strict=True):
            relevant_by_query[query_row] = set(relevant.tolist())
        return relevant_by_query


def _relevant_rows(grades: Mapping[str, int], document_rows: dict[str, int]) -> np.ndarray:
    """Return the rows of the documents with a grade above 0, in the order of `grades`."""
    rows = []
    for document_id, grade in grades.items():
        if grade > 0 and document_id in document_rows:
            rows.append(document_rows[document_id])
    return np.asarray(rows)


@dataclass(frozen=True)
class Candidates:
    """Hard negatives of E examples, with a teacher's scores where a teacher is used."""

    rows: np.ndarray  # [E, D] document rows; -1 where a candidate is missing
    scores: np.ndarray | None = None  # [E, D]; NaN where a score is missing
    positive_scores: np.ndarray | None = None  # [E, P] in the order of the example's positives; NaN where missing

    @classmethod
    def open(cls, folder: Path) -> Candidates:
        """Open the files of the stages `negatives`, `mine` or `teach`."""
        rows = np.load(folder / "candidates.npy", mmap_mode="r")
        return cls(rows, _open_optional(folder / "scores.npy"), _open_optional(folder / "positive_scores.npy"))


def _open_optional(file: Path) -> np.ndarray | None:
    if not file.exists():
        return None
    array: np.ndarray = np.load(file, mmap_mode="r")
    return array


class TextGroup(NamedTuple):
    """Texts of similar length, padded to the longest."""

    input_ids: Tensor  # [n, L]
    attention_mask: Tensor  # [n, L]


class TextGroups(NamedTuple):
    """N texts in groups of similar length. Text i is row `order[i]` of the concatenated groups."""

    groups: tuple[TextGroup, ...]
    order: Tensor  # [N]


class ContrastiveBatch(NamedTuple):
    """B queries and P passages: first a positive per query, then the hard negatives of each query."""

    queries: TextGroups
    passages: TextGroups
    documents: Tensor  # [B * (1 + negatives)], the passages' document rows, padded with -1
    answers: Tensor  # [B, A], the documents that answer a query, padded with -1
    group: Tensor | None = None  # with a teacher: [B, 1 + negatives], the columns of a query's own passages
    teacher: Tensor | None = None  # with a teacher: [B, 1 + negatives], its scores of these passages


class _Drawn(NamedTuple):
    """Documents drawn for one query, with a teacher's scores where there is a teacher."""

    documents: list[int]
    scores: list[float]


class ContrastiveBatches:
    """Makes the batches of one fine-tuning round.

    A query gets `negatives` hard negatives, and `lacking` is as in `Finetune.lacking`. With a teacher, an example needs
    a scored positive and a scored candidate. `gradient_cache` limits the tokens embedded together, with padding.
    """

    def __init__(
        self,
        examples: Examples,
        vocabulary: Vocabulary,
        reading: Reading,
        candidates: Candidates | None = None,
        negatives: int = 0,
        lacking: Literal["repeat", "random", "drop"] = "repeat",
        gradient_cache: int = 0,
    ) -> None:
        self.examples = examples
        self.vocabulary = vocabulary
        self.reading = reading
        self.candidates = candidates
        self.negatives = negatives if candidates is not None else 0
        self.lacking = lacking
        self.gradient_cache = gradient_cache
        self.rows = self._usable()  # the round's examples, in order
        if not len(self.rows):
            raise RetrobenchError("No training query is left that has a hard negative; look at their ids and scores.")
        self.lengths = np.minimum(examples.lengths(self.rows), reading.passage_length)

    def _usable(self) -> np.ndarray:
        """Return the rows of the examples that have the candidates and scores they need."""
        rows, candidates = np.arange(len(self.examples)), self.candidates
        if candidates is None:
            return rows
        if candidates.scores is None and self.lacking != "drop":
            return rows
        usable = (candidates.rows >= 0).any(1)
        if candidates.scores is not None and candidates.positive_scores is not None:
            usable &= np.isfinite(candidates.scores).any(1)
            usable &= np.isfinite(candidates.positive_scores).any(1)
        return rows[usable]

    def names(self, rows: np.ndarray) -> list[str]:
        """Return the query ids of rows of the round, for an error message."""
        query_rows = self.examples.query_rows[self.rows[rows]]
        return [f"query {self.examples.queries.ids[query_row]}" for query_row in query_rows]

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> ContrastiveBatch:
        """Return the batch of rows of the round, for a shard that `Contrastive` reads."""
        rows, examples, reading = self.rows[rows], self.examples, self.reading
        positives = [self._draw_positive(row, generator) for row in rows]
        negatives = [self._draw_negatives(row, generator) for row in rows]
        passages: list[int] = []
        for drawn in (*positives, *negatives):
            passages += drawn.documents
        documents = np.full(len(rows) * (1 + self.negatives), -1, np.int64)
        documents[: len(passages)] = passages
        batch = ContrastiveBatch(
            queries=self._grouped(examples.queries, examples.query_rows[rows], reading.query_length),
            passages=self._grouped(examples.documents, np.asarray(passages), reading.passage_length),
            documents=torch.from_numpy(documents),
            answers=torch.from_numpy(self._answers(rows)),
        )
        if self.candidates is not None and self.candidates.scores is not None:
            batch = batch._replace(group=_columns(len(rows), len(passages)), teacher=_scores(positives, negatives))
        return batch

    def _answers(self, rows: np.ndarray) -> np.ndarray:
        """Return the documents that answer each example's query, [B, A], padded with -1."""
        relevant = [self.examples.relevant[row] for row in rows]
        counts = [len(documents) for documents in relevant]
        owners = np.repeat(np.arange(len(rows)), counts)
        return grouped(owners, len(rows), np.concatenate(relevant).astype(np.int64), -1)

    def _grouped(self, texts: TokenisedTexts, rows: np.ndarray, max_length: int) -> TextGroups:
        """Return the texts of `rows`, in groups of similar length."""
        lengths = np.minimum(texts.lengths[rows] + 2, max_length)
        members = list(by_length(lengths, self.gradient_cache or GROUP))
        groups = []
        for group_members in members:
            group_texts = [texts[row] for row in rows[group_members]]
            packed = pack(group_texts, self.vocabulary, max_length)
            groups.append(TextGroup(packed.input_ids, packed.attention_mask))
        order = np.argsort(np.concatenate(members))
        return TextGroups(tuple(groups), torch.from_numpy(order))

    def _draw_positive(self, row: int, generator: torch.Generator) -> _Drawn:
        """Draw one of the example's positives, with its score."""
        positives, candidates = self.examples.positives[row], self.candidates
        if candidates is None or candidates.positive_scores is None:
            column = _draw(len(positives), 1, generator)[0]
            return _Drawn([int(positives[column])], [np.nan])
        scores = np.asarray(candidates.positive_scores[row][: len(positives)])
        scored = np.flatnonzero(np.isfinite(scores))
        column = scored[_draw(len(scored), 1, generator)[0]]
        return _Drawn([int(positives[column])], [float(scores[column])])

    def _draw_negatives(self, row: int, generator: torch.Generator) -> _Drawn:
        """Draw the example's hard negatives, with their scores."""
        if not self.negatives or self.candidates is None:
            return _Drawn([], [])
        documents = np.asarray(self.candidates.rows[row])
        if self.candidates.scores is not None:
            scores = np.asarray(self.candidates.scores[row])
            scored = np.flatnonzero((documents >= 0) & np.isfinite(scores))
            columns = scored[_draw(len(scored), self.negatives, generator)]
            return _Drawn(documents[columns].tolist(), scores[columns].tolist())
        present = documents[documents >= 0]
        missing = self.negatives - len(present)
        if self.lacking == "random" and missing > 0:
            random_rows = torch.randint(len(self.examples.documents), (missing,), generator=generator)
            return _Drawn([*present.tolist(), *random_rows.tolist()], [])
        if not len(present):
            return _Drawn([], [])
        drawn = present[_draw(len(present), self.negatives, generator)]
        return _Drawn(drawn.tolist(), [])


def _draw(length: int, count: int, generator: torch.Generator) -> np.ndarray:
    """Draw `count` of the numbers below `length`, without replacement until all are drawn, then in the same order."""
    permutation = torch.randperm(length, generator=generator).numpy()
    return np.resize(permutation, count)


def _columns(queries: int, passages: int) -> Tensor:
    """Return the columns of each query's own passages, [B, 1 + negatives], its positive first."""
    positive = torch.arange(queries)[:, None]
    negatives = torch.arange(queries, passages).view(queries, -1)
    return torch.cat([positive, negatives], 1)


def _scores(positives: list[_Drawn], negatives: list[_Drawn]) -> Tensor:
    """Return the teacher's scores of each query's own passages, [B, 1 + negatives], its positive first."""
    scores = []
    for positive, query_negatives in zip(positives, negatives, strict=True):
        scores.append(positive.scores + query_negatives.scores)
    return torch.tensor(scores, dtype=torch.float32)


def grouped(keys: np.ndarray, count: int, values: np.ndarray, empty: float) -> np.ndarray:
    """Return a table [count, most values per key] whose row k has the values [M] with key k, in their order.

    `keys` [M] are below `count`. Short rows are padded with `empty`.
    """
    sizes = np.bincount(keys, minlength=count)
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    starts = np.cumsum(sizes) - sizes
    columns = np.arange(len(keys)) - starts[sorted_keys]
    width = max(1, int(sizes.max(initial=0)))
    table = np.full((count, width), empty, values.dtype)
    table[sorted_keys, columns] = values[order]
    return table
