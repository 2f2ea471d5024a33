"""What fine-tuning goes through: training queries, what answers them, and hard negatives, as rows and as batches."""

from __future__ import annotations

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

__all__ = ["Candidates", "ContrastiveBatch", "Examples", "Round", "TextGroup", "TextGroups", "grouped"]

GROUP = 8192  # tokens embedded together, padding included


class Examples:
    """Training queries with their positives, as row numbers of tokenised queries and documents; E in number.

    `kind` "query" makes an example of each query, towards any of its positives; "judgement" one of each positive.
    `relevant` holds every document that answers an example's query; none of them is ever its negative.
    """

    def __init__(
        self,
        queries: TokenisedTexts,
        documents: TokenisedTexts,
        dataset: Dataset,
        kind: Literal["query", "judgement"] = "query",
    ) -> None:
        self.queries, self.documents = queries, documents
        document_row = {identifier: row for row, identifier in enumerate(documents.ids)}
        qrels = dataset.qrels()
        query_rows: list[int] = []
        self.positives: list[np.ndarray] = []
        self.relevant: list[np.ndarray] = []
        for row, query_id in enumerate(queries.ids):
            grades = qrels.get(query_id, {})
            answers = [document for document, grade in grades.items() if grade > 0 and document in document_row]
            if not answers:
                continue
            rows = np.asarray([document_row[document] for document in answers])
            for positives in np.split(rows, len(rows)) if kind == "judgement" else [rows]:
                query_rows.append(row)
                self.positives.append(positives)
                self.relevant.append(rows)
        if not query_rows:
            raise RetrobenchError(f"Dataset {dataset.id!r} has no query with a relevant document; nothing to train on.")
        self.query_rows = np.asarray(query_rows)  # [E]

    def __len__(self) -> int:
        return len(self.positives)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the tokens of the first positive of examples `rows`."""
        return np.asarray([self.documents.lengths[self.positives[row][0]] for row in rows])

    def relevant_by_query(self) -> dict[int, set[int]]:
        """Return the rows of the documents that answer each query, by the query's row."""
        pairs = zip(self.query_rows.tolist(), self.relevant, strict=True)
        return {query: set(rows.tolist()) for query, rows in pairs}


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


class TextGroup(NamedTuple):
    """Texts of like length, padded to the longest of them."""

    input_ids: Tensor  # [n, L]
    attention_mask: Tensor  # [n, L]


class TextGroups(NamedTuple):
    """Texts in groups of like length. Text i is row `order[i]` of the groups laid one behind the other."""

    groups: tuple[TextGroup, ...]
    order: Tensor  # [N]


class ContrastiveBatch(NamedTuple):
    """B queries and P passages: the queries' positives first, then the hard negatives of each query."""

    queries: TextGroups
    passages: TextGroups
    documents: Tensor  # [B * (1 + negatives)], the passages' document rows; -1 behind the last
    answers: Tensor  # [B, A], the documents that answer a query; -1 behind the last
    group: Tensor | None = None  # with a teacher: [B, 1 + negatives], the columns of a query's own passages
    teacher: Tensor | None = None  # with a teacher: [B, 1 + negatives], its scores of them


class Round:
    """Makes the batches of one round of fine-tuning.

    A query gets `negatives` hard negatives; `lacking` is as in `Finetune.lacking`. With a teacher, an example needs a
    scored positive and a scored candidate. `gradient_cache` are the tokens embedded together, padding included.
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
        self.examples, self.vocabulary, self.candidates = examples, vocabulary, candidates
        self.reading, self.gradient_cache = reading, gradient_cache
        self.negatives, self.lacking = negatives if candidates is not None else 0, lacking
        self.rows = self._usable()  # of the examples, in their order
        if not len(self.rows):
            raise RetrobenchError("No training query is left that has a hard negative; look at their ids and scores.")
        self.lengths = np.minimum(examples.lengths(self.rows), reading.passage_length)

    def _usable(self) -> np.ndarray:
        rows, candidates = np.arange(len(self.examples)), self.candidates
        if candidates is None or (candidates.scores is None and self.lacking != "drop"):
            return rows
        usable = (candidates.rows >= 0).any(1)
        if candidates.scores is not None and candidates.positive_scores is not None:
            usable &= np.isfinite(candidates.scores).any(1) & np.isfinite(candidates.positive_scores).any(1)
        return rows[usable]

    def names(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the queries of rows of the round, for an error."""
        return [f"query {self.examples.queries.ids[self.examples.query_rows[row]]}" for row in self.rows[rows]]

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, ContrastiveBatch]:
        """Return the batch of rows of the round, as the argument of `Contrastive.forward`."""
        rows, examples = self.rows[rows], self.examples
        positives = [self._positive(row, generator) for row in rows]
        negatives = [self._negatives(row, generator) for row in rows]
        passages = [document for document, _ in positives]
        for documents, _ in negatives:
            passages += documents
        padded = np.full(len(rows) * (1 + self.negatives), -1, np.int64)
        padded[: len(passages)] = passages
        relevant = [examples.relevant[row] for row in rows]
        owners = np.repeat(np.arange(len(rows)), [len(documents) for documents in relevant])
        answers = grouped(owners, len(rows), np.concatenate(relevant).astype(np.int64), -1)
        batch = ContrastiveBatch(
            queries=self._grouped(examples.queries, examples.query_rows[rows], self.reading.query_length),
            passages=self._grouped(examples.documents, np.asarray(passages), self.reading.passage_length),
            documents=torch.from_numpy(padded),
            answers=torch.from_numpy(answers),
        )
        if self.candidates is not None and self.candidates.scores is not None:
            scores = [[own, *others] for (_, own), (_, others) in zip(positives, negatives, strict=True)]
            own_column = torch.arange(len(rows))[:, None]
            negative_columns = len(rows) + torch.arange(len(passages) - len(rows)).view(len(rows), -1)
            batch = batch._replace(
                group=torch.cat([own_column, negative_columns], 1), teacher=torch.tensor(scores, dtype=torch.float32)
            )
        return {"batch": batch}

    def _grouped(self, texts: TokenisedTexts, rows: np.ndarray, max_length: int) -> TextGroups:
        lengths = np.minimum(texts.lengths[rows] + 2, max_length)
        members = list(by_length(lengths, self.gradient_cache or GROUP))
        groups = []
        for member_rows in members:
            packed = pack([texts[row] for row in rows[member_rows]], self.vocabulary, max_length)
            groups.append(TextGroup(packed.input_ids, packed.attention_mask))
        return TextGroups(tuple(groups), torch.from_numpy(np.argsort(np.concatenate(members))))

    def _positive(self, row: int, generator: torch.Generator) -> tuple[int, float]:
        """Draw one of the example's positives, with its score."""
        positives, candidates = self.examples.positives[row], self.candidates
        if candidates is None or candidates.positive_scores is None:
            return int(positives[_draw(len(positives), 1, generator)[0]]), np.nan
        scores = np.asarray(candidates.positive_scores[row][: len(positives)])
        scored = np.flatnonzero(np.isfinite(scores))
        column = scored[_draw(len(scored), 1, generator)[0]]
        return int(positives[column]), float(scores[column])

    def _negatives(self, row: int, generator: torch.Generator) -> tuple[list[int], list[float]]:
        """Draw the example's hard negatives, with their scores where a teacher gave some."""
        if not self.negatives or self.candidates is None:
            return [], []
        documents = np.asarray(self.candidates.rows[row])
        if self.candidates.scores is not None:
            scores = np.asarray(self.candidates.scores[row])
            scored = np.flatnonzero((documents >= 0) & np.isfinite(scores))
            columns = scored[_draw(len(scored), self.negatives, generator)]
            return documents[columns].tolist(), scores[columns].tolist()
        present = np.flatnonzero(documents >= 0)
        if self.lacking == "random" and len(present) < self.negatives:
            missing = self.negatives - len(present)
            random_rows = torch.randint(len(self.examples.documents), (missing,), generator=generator)
            return [*documents[present].tolist(), *random_rows.tolist()], []
        if not len(present):
            return [], []
        return documents[present[_draw(len(present), self.negatives, generator)]].tolist(), []


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
