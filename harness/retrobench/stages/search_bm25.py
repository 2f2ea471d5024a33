"""BM25 by the bm25s library: the lexical baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from retrobench.config import Baseline, Bm25
from retrobench.core import bar
from retrobench.data import Dataset
from retrobench.retrieval import write_search_facts
from retrobench.scoring import ranking, write_metadata, write_run
from retrobench.stages.work import Work
from retrobench.store import Artifact

__all__ = ["search_bm25"]

REVISION = 2  # increased when equal settings begin to give another run


def search_bm25(work: Work, dataset_id: str) -> Artifact:
    """Return a run of BM25 over title and text. A list ends where scores reach 0: no document without a query's word.

    Facts about the run name the stemmer and the stop words, which the baseline's settings may leave to the language.
    """
    experiment = work.experiment
    collection = work.inputs.collections[dataset_id]
    dataset = collection.dataset
    baseline = experiment.entrant
    assert isinstance(baseline, Baseline)
    settings = baseline.bm25.for_language(dataset.language)
    titles = bool(experiment.track.test_reading.titles)
    depth = experiment.track.evaluate.depth
    exclusions = dataset.exclusions()
    label = f"search {baseline.name} on {collection.id}"

    def make(folder: Path) -> dict[str, float]:
        document_ids, texts = _read_documents(dataset, titles)
        queries = list(dataset.queries())
        query_ids = [query.id for query in queries]
        precedence = ranking.precedence(document_ids)
        removals = ranking.Removals.of(query_ids, document_ids, exclusions)
        length = min(depth, len(document_ids))
        lists = []
        with bar(label, len(queries), "queries") as advance:
            for number, scores in enumerate(_scores(settings, texts, [query.text for query in queries])):
                hits = np.flatnonzero(scores > 0).astype(np.int32)
                rows, top_scores = ranking.top(scores[None, hits], depth + removals.most, precedence[hits])
                own_removals = removals.slice(number, number + 1)
                lists.append(ranking.finish(hits[rows], top_scores, precedence, length, own_removals))
                advance(1)
        ranked = ranking.join([ranking.lengthened(ranked_list, length) for ranked_list in lists], len(query_ids))
        write_run(folder, query_ids, document_ids, ranked, "bm25")
        hashes = {"corpus": collection.corpus.hash, "queries": collection.queries_hash}
        method = {"name": baseline.name, "objective": baseline.kind, **asdict(settings), "depth": depth}
        write_metadata(folder, baseline.name, dataset, method, hashes, {})
        write_search_facts(folder, {"stemmer": settings.stemmer, "stop_words": settings.stop_words})
        return {"queries": float(len(queries)), "documents": float(len(document_ids))}

    recipe = {
        "revision": REVISION,
        **asdict(settings),
        "dataset": collection.hash,
        "depth": depth,
        "titles": titles,
        **exclusions.settings(),
    }
    if settings.stemmer != "none":
        recipe["PyStemmer"] = version("PyStemmer")  # Snowball 3 stems 2 in 1,000 English words otherwise than 2
    return work.store.ensure("search", recipe, [], make, dataset=collection.id, label=label)


def _read_documents(dataset: Dataset, titles: bool) -> tuple[list[str], list[str]]:
    """Return the ids and texts of all documents, each title before its text."""
    ids = []
    texts = []
    for document in dataset.documents():
        text = document.text
        if titles:
            text = f"{document.title} {text}".strip()
        ids.append(document.id)
        texts.append(text)
    return ids, texts


def _scores(settings: Bm25, texts: list[str], queries: list[str]) -> Iterator[np.ndarray]:
    """Yield the scores of all texts for each query, float32 [N]."""
    import bm25s

    words = _word_options(settings)
    index = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene")
    index.index(bm25s.tokenize(texts, **words), show_progress=False)
    for query_words in bm25s.tokenize(queries, return_ids=False, **words):
        token_ids = index.get_tokens_ids(query_words)
        if len(token_ids):
            yield index.get_scores_from_ids(token_ids)
        else:
            yield np.zeros(len(texts), np.float32)


def _word_options(settings: Bm25) -> dict[str, Any]:
    """Return the options of bm25s' tokenizer."""
    options: dict[str, Any] = {"stopwords": None, "stemmer": None, "show_progress": False}
    if settings.stop_words != "none":
        options["stopwords"] = settings.stop_words
    if settings.stemmer != "none":
        from Stemmer import Stemmer

        options["stemmer"] = Stemmer(settings.stemmer)
    return options
