"""A collection as the stages read it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from retrobench.data import Collection, TokenisedTexts
from retrobench.store import Artifact
from retrobench.training import Examples

__all__ = ["TokenisedCollection"]


class TokenisedCollection(NamedTuple):
    """A collection with its documents and queries, tokenised."""

    collection: Collection
    documents: Artifact
    queries: Artifact

    def examples(self, kind: Literal["query", "judgement"]) -> Examples:
        """Return the queries with their positives. An example is a query or a judgement."""
        queries = TokenisedTexts.open(self.queries.path)
        documents = TokenisedTexts.open(self.documents.path)
        return Examples(queries, documents, self.collection.dataset, kind)
