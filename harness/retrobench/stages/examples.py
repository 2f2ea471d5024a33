"""The examples of a pre-training: the documents of its corpora, as the objective chooses and collates them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from retrobench.data import TokenisedTexts
from retrobench.objective import Objective, Passage, Vocabulary
from retrobench.training import check_batch, check_rows, choose_examples

__all__ = ["Corpus", "PretrainingExamples"]


class PretrainingExamples:
    """The examples of an objective: documents, each as often as it says."""

    def __init__(self, objective: Objective, texts: Corpus, vocabulary: Vocabulary, max_length: int) -> None:
        """RetrobenchError where the objective gives examples that are no documents, or none."""
        self.objective = objective
        self.texts = texts
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.documents: np.ndarray | None = None  # [E]; None for each document once
        lengths = texts.lengths
        chosen = choose_examples(objective, texts.lengths, max_length)
        if chosen is not None:
            self.documents, lengths = chosen
        self.lengths = np.minimum(lengths, max_length)  # [E]
        self.rows_per_example: float | None = None

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the batch of some examples."""
        passages = [self.texts[row] for row in self._documents(rows)]
        batch = self.objective.collate(passages, self.vocabulary, self.max_length, generator)
        check_batch(self.objective.name, batch, self.max_length)
        rows_per_example = len(batch["attention_mask"]) / len(passages)
        if self.rows_per_example is None:
            self.rows_per_example = rows_per_example
        check_rows(self.objective.name, self.rows_per_example, rows_per_example)
        return batch

    def names(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the documents of some examples."""
        return self.texts.names(self._documents(rows))

    def _documents(self, rows: np.ndarray) -> np.ndarray:
        if self.documents is None:
            return rows
        documents: np.ndarray = self.documents[rows]
        return documents


class Corpus:
    """Several tokenised collections as one."""

    def __init__(self, collections: list[TokenisedTexts]) -> None:
        self.collections = collections
        self.lengths = np.concatenate([texts.lengths for texts in collections])
        sizes = [len(texts) for texts in collections]
        self.ends = np.cumsum(sizes)

    def _locate(self, row: int) -> tuple[TokenisedTexts, int]:
        """Return the collection of a row and the position in it."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        texts = self.collections[number]
        first = int(self.ends[number]) - len(texts)
        return texts, row - first

    def __getitem__(self, row: int) -> Passage:
        texts, position = self._locate(row)
        return texts[position]

    def names(self, rows: np.ndarray) -> list[str]:
        names = []
        for row in rows:
            texts, position = self._locate(row)
            names.append(texts.ids[position])
        return names
