"""BM25, by the bm25s library: the lexical baseline without which a reader cannot place the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrobench.config import Bm25, Experiment
from retrobench.core import bar
from retrobench.data import load
from retrobench.scoring import ranking, write_run
from retrobench.store import Artifact, Store

__all__ = ["lexical"]


def lexical(x: Experiment, store: Store, dataset_id: str, depth: int) -> Artifact:
    """A run of BM25 over title and text, English stop words left out, no stemming."""
    settings, dataset = x.entrant.objective, load(dataset_id)
    assert isinstance(settings, Bm25)
    drop_self = dataset.rule.drop_self

    def make(folder: Path) -> dict[str, float]:
        import bm25s

        documents, queries = list(dataset.documents()), list(dataset.queries())
        titled = x.track.finetune.titles
        texts = [f"{d.title} {d.text}".strip() if titled else d.text for d in documents]
        index = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene")
        index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        asked = bm25s.tokenize([q.text for q in queries], stopwords="en", return_ids=False, show_progress=False)
        ids = [document.id for document in documents]
        names = [query.id for query in queries]
        places, parts = ranking.precedence(ids), []
        own = ranking.own_rows(names, ids) if drop_self else np.full(len(names), -1)
        with bar(f"search bm25 on {dataset_id}", len(queries), "queries") as advance:
            for words, mine in zip(asked, own, strict=True):
                known = index.get_tokens_ids(words)
                scores = index.get_scores_from_ids(known) if len(known) else np.zeros(len(ids), np.float32)
                best = ranking.top(scores[None], depth + drop_self, places)
                parts.append(ranking.finish(*best, places, depth, mine[None]))
                advance(1)
        write_run(folder, names, ids, ranking.join(parts, len(names)), "bm25")
        return {"queries": float(len(queries)), "documents": float(len(ids))}

    recipe = {**x.entrant.settings, "dataset": dataset.fingerprint(), "depth": depth, "titles": x.track.finetune.titles}
    recipe |= {"drop_self": True} if drop_self else {}
    return store.ensure("search", recipe, [], make, label=f"search bm25 on {dataset_id}")
