"""BM25, by the bm25s library: the lexical baseline without which a reader cannot place the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrobench.config import Baseline
from retrobench.core import bar
from retrobench.scoring import ranking, write_run
from retrobench.stages.work import Work
from retrobench.store import Artifact

__all__ = ["search_bm25"]


def search_bm25(work: Work, dataset_id: str) -> Artifact:
    """Return a run of BM25 over title and text, English stop words left out, no stemming."""
    experiment, collection = work.experiment, work.inputs.collections[dataset_id]
    baseline, titles = experiment.entrant, bool(experiment.track.test_reading.titles)
    assert isinstance(baseline, Baseline)
    depth, drop_self = experiment.track.evaluate.depth, collection.dataset.rule.drop_self
    label = f"search {baseline.name} on {collection.id}"

    def make(folder: Path) -> dict[str, float]:
        import bm25s

        documents, queries = list(collection.dataset.documents()), list(collection.dataset.queries())
        texts = [f"{d.title} {d.text}".strip() if titles else d.text for d in documents]
        index = bm25s.BM25(k1=baseline.bm25.k1, b=baseline.bm25.b, method="lucene")
        index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        query_texts = [query.text for query in queries]
        query_words = bm25s.tokenize(query_texts, stopwords="en", return_ids=False, show_progress=False)
        document_ids = [document.id for document in documents]
        query_ids = [query.id for query in queries]
        precedence = ranking.precedence(document_ids)
        own_rows = ranking.own_rows(query_ids, document_ids) if drop_self else np.full(len(query_ids), -1)
        blocks = []
        with bar(label, len(queries), "queries") as advance:
            for words, own_row in zip(query_words, own_rows, strict=True):
                token_ids = index.get_tokens_ids(words)
                scores = np.zeros(len(document_ids), np.float32)
                if len(token_ids):
                    scores = index.get_scores_from_ids(token_ids)
                best = ranking.top(scores[None], depth + drop_self, precedence)
                blocks.append(ranking.finish(*best, precedence, depth, own_row[None]))
                advance(1)
        write_run(folder, query_ids, document_ids, ranking.join(blocks, len(query_ids)), "bm25")
        return {"queries": float(len(queries)), "documents": float(len(documents))}

    recipe = {
        **baseline.settings,
        "dataset": collection.hash,
        "depth": depth,
        "titles": titles,
        "drop_self": drop_self,
    }
    return work.store.ensure("search", recipe, [], make, dataset=collection.id, label=label)
