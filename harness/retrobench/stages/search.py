"""
Exact search: faiss for dense vectors, a blocked product with the sparse part where there are terms.

* search               the stage: every query of a dataset against its documents
* ranked               the same over folders of vectors, whoever made them
* write_run, read_run  a ranking as a TREC run beside arrays, and back from the arrays
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from retrobench import ranking
from retrobench.data import load
from retrobench.errors import RetrobenchError
from retrobench.experiment import Experiment
from retrobench.progress import bar
from retrobench.ranking import Ranked
from retrobench.stages.encode import encode
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.tokens import TokenisedTexts
from retrobench.vectors import Vectors

__all__ = ["ranked", "read_run", "search", "write_run"]

QUERIES = 256  # scored at a time
DOCUMENTS = 2**16  # held sparse together: torch counts a matrix's entries in 32 bits
_NUMBERS = ("dense", "terms", "term_weights")  # the files that hold vectors, of queries or of passages
_CHECKED = 1024  # rows looked at together
_LARGEST = 1e15  # in a vector; products of what is smaller stay far from infinity, in 32 bits too


def search(x: Experiment, store: Store, encoder: Artifact, dataset_id: str, depth: int) -> Artifact:
    """The best `depth` documents of every query of a dataset, as `run.trec` and as `rows.npy`, `scores.npy` [Q, k]."""
    beginning = start(x)
    documents = tokenise(store, beginning, dataset_id, "documents", x.track.finetune.titles)
    queries = tokenise(store, beginning, dataset_id, "queries")
    passages = encode(x, store, encoder, documents, "passage")
    asked = encode(x, store, encoder, queries, "query")
    drop_self, scale = load(dataset_id).rule.drop_self, x.track.representation.scale

    def make(folder: Path) -> dict[str, float]:
        names, ids = TokenisedTexts.open(queries.path).ids, TokenisedTexts.open(documents.path).ids
        with bar(f"search {dataset_id}", len(names), "queries") as advance:
            found = ranked(asked.path, passages.path, names, ids, depth, scale, drop_self, advance)
        write_run(folder, names, ids, found, x.entrant.name)
        return {"queries": float(len(names)), "documents": float(len(ids))}

    recipe = {"depth": depth, "scale": scale, "engine": _engine(x.entrant.representation)}
    recipe |= {"drop_self": True} if drop_self else {}
    label = f"search {x.entrant.name} on {dataset_id}"
    return store.ensure("search", recipe, [asked, passages], make, label=label)


def _engine(representation: str) -> str:
    return "blocked product" if "terms" in representation else "faiss IndexFlatIP"


def ranked(
    queries: Path,
    passages: Path,
    query_ids: Sequence[str],
    ids: Sequence[str],
    depth: int,
    scale: float = 1.0,
    drop_self: bool = False,
    advance: Callable[[int], None] | None = None,
) -> Ranked:
    """The best `depth` passages of each query by inner product, exact and in the total order of `ranking`.

    Both folders hold what the stage encode writes, float32, a row for each id: `dense.npy` [N, d], and for terms
    `terms.npy` [Q, V] beside `term_ids.npy`, `term_weights.npy` [N, k], whose product is weighed by `scale`. With
    `drop_self` a query's own document, the one with its id, is left out. `advance(n)` is told of each n queries done.
    RetrobenchError for an id used twice and for a vector that is not finite or holds a number from 1e15 on.
    """
    queries, passages = _unpacked(queries, True), _unpacked(passages, False)
    _check_ids("The queries hold", "query", query_ids)
    _check_ids("The collection holds", "document", ids)
    _check_vectors(queries, "query", query_ids)
    _check_vectors(passages, "document", ids)
    own = ranking.own_rows(query_ids, ids) if drop_self else None
    places, deeper = ranking.precedence(ids), depth + drop_self
    engine = _with_terms if (passages / "term_ids.npy").exists() else _dense
    parts, done = [], 0
    for rows, scores in engine(queries, passages, places, deeper, scale) if ids and query_ids else ():
        end = done + len(rows)
        parts.append(ranking.finish(rows, scores, places, depth, None if own is None else own[done:end]))
        done = end
        if advance:
            advance(len(rows))
    return ranking.join(parts, len(query_ids))


def _unpacked(folder: Path, asks: bool) -> Path:
    """Until search reads `vectors` itself: the same as the plain arrays it knows."""
    if not (folder / "manifest.json").exists():
        return folder
    import tempfile

    found = Vectors.open(folder)
    plain = Path(tempfile.mkdtemp())
    if found.width:
        np.save(plain / "dense.npy", found.dense(0, len(found)))
    if found.words:
        terms = found.terms(0, len(found))
        counts = np.diff(terms.indptr)
        width = found.words if asks else max(1, int(counts.max(initial=0)))
        where = np.arange(len(terms.values)) - np.repeat(terms.indptr[:-1], counts)
        rows, weights = np.repeat(np.arange(len(found)), counts), np.zeros((len(found), width), np.float32)
        weights[rows, terms.indices if asks else where] = terms.values
        if asks:
            np.save(plain / "terms.npy", weights)
        else:
            columns = np.zeros(weights.shape, np.int32)
            columns[rows, where] = terms.indices
            np.save(plain / "term_weights.npy", weights)
            np.save(plain / "term_ids.npy", columns)
    return plain


def _check_ids(holder: str, kind: str, ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise RetrobenchError(
            f"{holder} the {kind} id {twice!r} twice; a run could not tell them apart. Mend the file."
        )


def _check_vectors(folder: Path, kind: str, ids: Sequence[str]) -> None:
    for file in (folder / f"{name}.npy" for name in _NUMBERS):
        vectors = np.load(file, mmap_mode="r") if file.exists() else np.zeros((0, 0))
        for first in range(0, len(vectors), _CHECKED):
            sound = (np.abs(vectors[first : first + _CHECKED]) < _LARGEST).all(1)
            if not sound.all():
                name = ids[first + int(np.argmin(sound))]
                raise RetrobenchError(
                    f"The vector of {kind} {name!r} ({file.name}) is not finite, so it cannot be ranked: the encoder's "
                    "weights or its precision are at fault. Encode in fp32, or take another checkpoint."
                )


Hits = Iterator[tuple[np.ndarray, np.ndarray]]  # rows and scores [q, k] of a few queries at a time


def _dense(queries: Path, passages: Path, places: np.ndarray, depth: int, scale: float) -> Hits:
    import faiss

    vectors, asked = np.load(passages / "dense.npy", mmap_mode="r"), np.load(queries / "dense.npy", mmap_mode="r")
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


def write_run(folder: Path, queries: Sequence[str], ids: Sequence[str], found: Ranked, tag: str) -> None:
    """A TREC run, and the same as arrays with names, which are read a hundred times faster."""
    names = {"queries": list(queries), "documents": list(ids), "self_hits": found.self_hits}
    (folder / "names.json").write_text(json.dumps(names))
    np.save(folder / "rows.npy", found.rows)
    np.save(folder / "scores.npy", found.scores)
    tag = "".join(tag.split()).replace("%", "%%")
    # One template for all queries: ten million lines are formatted in C, a query at a time.
    lines = [f"\0 Q0 %s {rank} %.9g {tag}\n" for rank in range(1, found.rows.shape[1] + 1)]
    whole = "".join(lines)
    with open(folder / "run.trec", "w", encoding="utf-8") as file:
        for query, hits, values in zip(queries, found.rows, found.scores, strict=True):
            count = int(np.count_nonzero(hits >= 0))  # -1 ends a list
            pairs = zip((ids[row] for row in hits[:count].tolist()), values[:count].tolist(), strict=True)
            template = whole if count == len(lines) else "".join(lines[:count])
            file.write((template % tuple(itertools.chain.from_iterable(pairs))).replace("\0", query))


def read_run(folder: Path) -> tuple[list[str], list[str], Ranked]:
    """Queries, documents and ranking as `write_run` left them; the arrays are mapped, not read."""
    names = json.loads((folder / "names.json").read_text())
    rows, scores = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("rows", "scores"))
    found = Ranked(rows, scores, names.get("self_hits", 0), ranking.count_ties(rows, scores))
    return names["queries"], names["documents"], found
