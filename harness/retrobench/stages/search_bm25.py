"""BM25 by the bm25s library: the lexical baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrobench.config import Baseline
from retrobench.core import bar
from retrobench.scoring import ranking, write_run
from retrobench.stages.work import Work
from retrobench.store import Artifact

if TYPE_CHECKING:
    import bm25s

__all__ = ["search_bm25"]


def search_bm25(work: Work, dataset_id: str) -> Artifact:
    """Return a run of BM25 over title and text, without English stop words and without stemming."""
    experiment = work.experiment
    collection = work.inputs.collections[dataset_id]
    baseline = experiment.entrant
    assert isinstance(baseline, Baseline)
    titles = bool(experiment.track.test_reading.titles)
    depth = experiment.track.evaluate.depth
    drop_self = collection.dataset.rule.drop_self
    label = f"search {baseline.name} on {collection.id}"

    def make(folder: Path) -> dict[str, float]:
        documents = list(collection.dataset.documents())
        queries = list(collection.dataset.queries())
        document_ids = [document.id for document in documents]
        query_ids = [query.id for query in queries]
        precedence = ranking.precedence(document_ids)
        own_rows = np.full(len(query_ids), -1)
        if drop_self:
            own_rows = ranking.own_rows(query_ids, document_ids)
        texts = []
        for document in documents:
            text = document.text
            if titles:
                text = f"{document.title} {text}".strip()
            texts.append(text)
        index = _index(texts, baseline)
        query_texts = [query.text for query in queries]
        query_words = _split_words(query_texts)
        blocks = []
        with bar(label, len(queries), "queries") as advance:
            for words, own_row in zip(query_words, own_rows, strict=True):
                scores = _score(index, words, len(documents))
                rows, top_scores = ranking.top(scores[None], depth + drop_self, precedence)
                blocks.append(ranking.finish(rows, top_scores, precedence, depth, own_row[None]))
                advance(1)
        ranked = ranking.join(blocks, len(query_ids))
        write_run(folder, query_ids, document_ids, ranked, "bm25")
        return {"queries": float(len(queries)), "documents": float(len(documents))}

    recipe = {
        **baseline.settings,
        "dataset": collection.hash,
        "depth": depth,
        "titles": titles,
        "drop_self": drop_self,
    }
    return work.store.ensure("search", recipe, [], make, dataset=collection.id, label=label)


def _index(texts: list[str], baseline: Baseline) -> bm25s.BM25:
    import bm25s

    index = bm25s.BM25(k1=baseline.bm25.k1, b=baseline.bm25.b, method="lucene")
    document_words = bm25s.tokenize(texts, stopwords="en", show_progress=False)
    index.index(document_words, show_progress=False)
    return index


def _split_words(texts: list[str]) -> list[list[str]]:
    """Return the words of each text."""
    import bm25s

    words: list[list[str]] = bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
    return words


def _score(index: bm25s.BM25, words: list[str], count: int) -> np.ndarray:
    """Return the scores of the `count` documents for a query, float32 [N]."""
    token_ids = index.get_tokens_ids(words)
    if not len(token_ids):
        return np.zeros(count, np.float32)
    scores: np.ndarray = index.get_scores_from_ids(token_ids)
    return scores
