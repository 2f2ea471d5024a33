"""Exact search: faiss for dense vectors, a blocked product with the sparse part where there are terms."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from retrobench import ranking
from retrobench.errors import RetrobenchError
from retrobench.experiment import Experiment
from retrobench.progress import bar
from retrobench.stages.encode import encode
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.tokens import TokenisedTexts

__all__ = ["Hits", "blocks", "search", "write_run"]

QUERIES = 256  # scored at a time
DOCUMENTS = 2**16  # held sparse together: torch counts a matrix's entries in 32 bits


def search(x: Experiment, store: Store, encoder: Artifact, dataset_id: str, depth: int) -> Artifact:
    """The best `depth` documents of every query of a dataset, as `run.trec` and as `rows.npy`, `scores.npy` [Q, k]."""
    beginning = start(x)
    documents = tokenise(store, beginning, dataset_id, "documents", x.track.finetune.titles)
    queries = tokenise(store, beginning, dataset_id, "queries")
    passages = encode(x, store, encoder, documents, "passage")
    asked = encode(x, store, encoder, queries, "query")

    def make(folder: Path) -> dict[str, float]:
        names, ids = TokenisedTexts.open(queries.path).ids, TokenisedTexts.open(documents.path).ids
        hits: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        with bar(f"search {dataset_id}", len(names), "queries") as advance:
            for rows, scores in blocks(asked.path, passages.path, ids, depth, x.track.representation.scale):
                hits[0].append(rows)
                hits[1].append(scores)
                advance(len(rows))
        write_run(folder, names, ids, np.concatenate(hits[0]), np.concatenate(hits[1]), x.entrant.name)
        return {"queries": float(len(names)), "documents": float(len(ids))}

    recipe = {"depth": depth, "scale": x.track.representation.scale, "engine": _engine(x.entrant.representation)}
    label = f"search {x.entrant.name} on {dataset_id}"
    return store.ensure("search", recipe, [asked, passages], make, label=label)


def _engine(representation: str) -> str:
    return "blocked product" if "terms" in representation else "faiss IndexFlatIP"


Hits = Iterator[tuple[np.ndarray, np.ndarray]]


def blocks(queries: Path, passages: Path, ids: list[str], depth: int, scale: float) -> Hits:
    """Rows and scores [q, k] of a few queries at a time, exact and in the total order of `ranking`."""
    if len(set(ids)) != len(ids):
        raise RetrobenchError(
            "The collection holds a document id twice; a run could not tell them apart. Mend its file."
        )
    places = ranking.precedence(ids)
    if (passages / "term_ids.npy").exists():
        return _with_terms(queries, passages, places, depth, scale)
    return _dense(queries, passages, places, depth)


def _dense(queries: Path, passages: Path, places: np.ndarray, depth: int) -> Hits:
    import faiss

    vectors, asked = np.load(passages / "dense.npy"), np.load(queries / "dense.npy", mmap_mode="r")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    depth = min(depth, len(vectors))
    more = min(depth + 1, len(vectors))
    for first in range(0, len(asked), QUERIES):
        block = np.ascontiguousarray(asked[first : first + QUERIES])
        scores, rows = index.search(block, more)
        # faiss cuts through equal scores where it likes; such a query is scored against every document.
        cut = np.flatnonzero(scores[:, depth - 1] == scores[:, more - 1]) if more > depth else np.zeros(0, int)
        rows, scores = ranking.order(rows[:, :depth], scores[:, :depth], places)
        if len(cut):
            rows[cut], scores[cut] = ranking.top(block[cut] @ vectors.T, depth, places)
        yield rows.astype(np.int32), scores


def _with_terms(queries: Path, passages: Path, places: np.ndarray, depth: int, scale: float) -> Hits:
    weights = torch.from_numpy(np.load(passages / "term_weights.npy"))  # [N, k]
    columns = torch.from_numpy(np.load(passages / "term_ids.npy"))
    asked = np.load(queries / "terms.npy", mmap_mode="r")  # [Q, V]
    parts = [
        _sparse(weights[at : at + DOCUMENTS], columns[at : at + DOCUMENTS], asked.shape[1])
        for at in range(0, len(weights), DOCUMENTS)
    ]
    dense = (passages / "dense.npy").exists()
    vectors = torch.from_numpy(np.load(passages / "dense.npy")) if dense else None  # [N, d]
    dense_asked = np.load(queries / "dense.npy") if dense else None
    for first in range(0, len(asked), QUERIES):
        block = torch.from_numpy(np.array(asked[first : first + QUERIES]))
        best, kept = np.empty((len(block), 0), np.int64), np.empty((len(block), 0), np.float32)
        for number, part in enumerate(parts):
            at, end = number * DOCUMENTS, number * DOCUMENTS + part.shape[0]
            scores = (scale * (part @ block.T)).T.contiguous()  # [q, n]; ranked a row at a time
            if vectors is not None and dense_asked is not None:
                scores += torch.from_numpy(dense_asked[first : first + QUERIES]) @ vectors[at:end].T
            rows, found = ranking.top(scores.numpy(), depth, places[at:end])
            best, kept = np.hstack([best, rows + at]), np.hstack([kept, found])
            best, kept = (array[:, :depth] for array in ranking.order(best, kept, places))
        yield best.astype(np.int32), kept


def _sparse(weights: torch.Tensor, columns: torch.Tensor, words: int) -> torch.Tensor:
    """Rows of k weights and their columns, both [n, k], as a sparse matrix [n, V]."""
    starts = torch.arange(len(weights) + 1, dtype=torch.int32) * weights.shape[1]
    shape = (len(weights), words)
    with warnings.catch_warnings():
        # torch calls the layout a beta once in each process; a product of it is held against a dense one by test.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns.flatten(), weights.flatten(), shape, check_invariants=False)


def write_run(folder: Path, queries: list[str], ids: list[str], rows: np.ndarray, scores: np.ndarray, tag: str) -> None:
    """A TREC run of hits [Q, k], and the same as arrays with names, which are read a hundred times faster."""
    (folder / "names.json").write_text(json.dumps({"queries": queries, "documents": ids}))
    np.save(folder / "rows.npy", rows)
    np.save(folder / "scores.npy", scores)
    tag = "".join(tag.split()).replace("%", "%%")
    # One template for all queries: ten million lines are formatted in C, a query at a time.
    lines = "".join(f"\0 Q0 %s {rank} %.9g {tag}\n" for rank in range(1, rows.shape[1] + 1))
    with open(folder / "run.trec", "w", encoding="utf-8") as file:
        for query, hits, values in zip(queries, rows, scores, strict=True):
            pairs = zip((ids[row] for row in hits.tolist()), values.tolist(), strict=True)
            file.write((lines % tuple(itertools.chain.from_iterable(pairs))).replace("\0", query))
