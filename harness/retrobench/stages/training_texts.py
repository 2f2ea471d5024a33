"""The texts that fine-tuning, mining and teaching share."""

from __future__ import annotations

from typing import Literal, NamedTuple

from retrobench.data import Collection, TokenisedTexts
from retrobench.store import Artifact
from retrobench.training import Examples

__all__ = ["TrainingTexts"]


class TrainingTexts(NamedTuple):
    """The training queries and the documents that they are searched among, tokenised."""

    collection: Collection
    documents: Artifact
    queries: Artifact

    def examples(self, kind: Literal["query", "judgement"]) -> Examples:
        """Return the queries with their positives, an example for each query or each judgement."""
        queries, documents = TokenisedTexts.open(self.queries.path), TokenisedTexts.open(self.documents.path)
        return Examples(queries, documents, self.collection.dataset, kind)
