"""Texts to token ids, once per tokenizer, whatever the objective."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from retrobench.config import Titles
from retrobench.core import bar, tree_hash
from retrobench.data import Dataset, load, training_pairs, write_tokens
from retrobench.errors import RetrobenchError
from retrobench.model import load_tokenizer
from retrobench.store import Artifact, Store

__all__ = ["tokenise"]

Kind = Literal["documents", "queries"]


def tokenise(
    store: Store, start: Artifact, dataset_id: str, kind: Kind, titles: Titles = True, sample: int = 0
) -> Artifact:
    """The documents or queries of a dataset as `tokens.TokenisedTexts` holds them.

    With `sample`, only so many of the queries that have a relevant document: the same ones whoever asks.
    """
    dataset = load(dataset_id)
    tokenizer_files = [start.path / name for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")]

    def make(folder: Path) -> dict[str, float]:
        tokenizer = load_tokenizer(start.path)
        total = dataset.document_count() if kind == "documents" else sample or dataset.query_count()
        with bar(f"tokenise {dataset_id} {kind}", total, kind) as advance:
            texts = _texts(dataset, kind, bool(titles), sample)
            counted = write_tokens(folder, texts, tokenizer, advance, separated=titles == "[SEP]")
        if not counted["texts"]:
            raise RetrobenchError(
                f"Dataset {dataset_id!r} holds no {kind}; there is nothing to run on. Check its files."
            )
        return counted

    settings = {
        "texts": _fingerprint(dataset, kind, dataset.stamp()),
        "titles": bool(titles),
        "sample": sample,
        "tokenizer": tree_hash(file for file in tokenizer_files if file.exists()),
    } | ({"separated": True} if titles == "[SEP]" else {})
    return store.ensure("tokenise", settings, [], make, label=f"tokenise {dataset_id} {kind}")


@functools.cache  # a run asks for each collection's several times
def _fingerprint(dataset: Dataset, kind: Kind, stamp: tuple[int, ...]) -> str:
    return dataset.corpus_fingerprint() if kind == "documents" else dataset.queries_fingerprint()


def _texts(dataset: Dataset, kind: Kind, titles: bool, sample: int) -> Iterator[tuple[str, str, str]]:
    if kind == "documents":
        return ((d.id, d.title if titles else "", d.text) for d in dataset.documents())
    queries = list(dataset.queries())
    if sample:
        useful = {query for query, _ in training_pairs(dataset)}
        queries = [query for query in queries if query.id in useful]
        kept = np.sort(np.random.default_rng(0).permutation(len(queries))[:sample])
        queries = [queries[at] for at in kept]
    return ((query.id, "", query.text) for query in queries)
