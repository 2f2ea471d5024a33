"""
Exact search beside faiss's flat index, a plain product with topk, and sentence-transformers' semantic_search.

The vectors are random and of length 1, held in memory as float32, and every side has made itself ready: what is timed
is the answer to queries. On a GPU the collection is as large as MS MARCO's, and stored as float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.frame import Case, Floor, Setting, UnequalError
from retrobench.bench.texts import unit
from retrobench.retrieval import Engine, VectorSet, choose_engine, search

__all__ = ["cases"]

DEPTHS = (10, 100, 1000)
BLOCK = 2**16  # documents of a GPU's peer at a time
SAMPLE = 64  # queries of which a GPU's answer is held against products in 32 bits
Found = tuple[np.ndarray, np.ndarray]  # rows and scores [Q, k]


def cases(setting: Setting) -> Iterator[Case]:
    """On a processor 200 queries and one, on a GPU 6,980."""
    return _on_gpu(setting) if setting.cuda else _on_processor(setting)


def _on_processor(setting: Setting) -> Iterator[Case]:
    documents, queries, width = (20_000, 40, 64) if setting.smoke else (100_000, 200, 384)
    vectors, asked = unit(documents, width, 0), unit(queries, width, 1)
    among, tie_ranks = VectorSet(vectors), np.arange(documents, dtype=np.int32)
    _ = among.census
    peers = _peers(vectors)
    size = f"{documents:,} x {width}, {queries} queries"
    floor = Floor(2.0 * documents * width, 4.0 * documents * width / queries)
    for depth in DEPTHS:
        ours = partial(_ours, asked, among, depth, tie_ranks)
        for name, peer in peers.items():
            yield _case(f"top {depth} of {size}, beside {name}", ours, partial(peer, asked, depth), name, floor)
    one = asked[:1]
    floor = Floor(2.0 * documents * width, 4.0 * documents * width, "fp32")
    for depth in DEPTHS:
        ours, theirs = partial(_ours, one, among, depth, tie_ranks), partial(peers["faiss flat"], one, depth)
        yield _case(f"top {depth} of {documents:,} x {width}, one query", ours, theirs, "faiss flat", floor)


def _case(name: str, ours: Callable[[], Found], peer: Callable[[], Found], peer_name: str, floor: Floor) -> Case:
    return Case(
        name=name,
        unit="queries/s",
        ours=lambda: float(len(ours()[0])),
        check=lambda: _agree(ours(), peer()),
        peer=lambda: float(len(peer()[0])),
        peer_name=peer_name,
        floor=floor,
        rounds=5,
        warmups=0,  # the round that memory is taken in is one
    )


def _ours(asked: np.ndarray, among: VectorSet, depth: int, tie_ranks: np.ndarray) -> Found:
    rows, scores = zip(*search(VectorSet(asked), among, depth, tie_ranks), strict=True)
    return np.concatenate(rows), np.concatenate(scores)


def _peers(vectors: np.ndarray) -> dict[str, Callable[[np.ndarray, int], Found]]:
    import faiss
    from sentence_transformers.util import dot_score, semantic_search

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    tensor = torch.from_numpy(vectors)

    def flat(asked: np.ndarray, depth: int) -> Found:
        scores, rows = index.search(asked, depth)
        return rows, scores

    def product(asked: np.ndarray, depth: int) -> Found:
        best = (torch.from_numpy(asked) @ tensor.T).topk(depth)
        return best.indices.numpy(), best.values.numpy()

    def semantic(asked: np.ndarray, depth: int) -> Found:
        hits: Any = semantic_search(torch.from_numpy(asked), tensor, top_k=depth, score_function=dot_score)
        rows = np.asarray([[hit["corpus_id"] for hit in of] for of in hits])
        return rows, np.asarray([[hit["score"] for hit in of] for of in hits], np.float32)

    return {"faiss flat": flat, "matmul + topk": product, "semantic_search": semantic}


def _agree(ours: Found, peer: Found) -> str:
    """The same documents, save where the peer's rounding changed places at the cut; says how many are shared."""
    apart = float(np.abs(ours[1] - peer[1]).max())
    if not apart <= 2e-6:
        raise UnequalError(f"Scores of the same ranks are {apart:.2g} apart, of at most 2e-06. Nothing was timed.")
    shared = np.mean([np.isin(a, b).mean() for a, b in zip(ours[0], peer[0], strict=True)])
    if shared < 0.999:
        raise UnequalError(f"Only {shared:.4f} of the documents are the peer's. Nothing was timed.")
    return f"recall {shared:.4f} of the peer's documents, scores within {apart:.1g}"


def _on_gpu(setting: Setting) -> Iterator[Case]:
    documents, queries, width, depth = (50_000, 64, 64, 100) if setting.smoke else (8_841_823, 6_980, 768, 1000)
    stored, asked = _drawn(documents, width, 0), _drawn(queries, width, 1).float().cpu().numpy()
    among = VectorSet(stored.cpu().numpy(), stored="float16")
    engine = choose_engine(among, np.arange(documents, dtype=np.int32))
    given = torch.from_numpy(asked).cuda().half()
    yield Case(
        name=f"top {depth} of {documents:,} x {width}, {queries:,} queries",
        unit="queries/s",
        ours=lambda: float(len(engine.search(VectorSet(asked), depth)[0])),
        check=lambda: _sampled(engine, asked, stored, depth),
        peer=lambda: float(len(_blocked(given, stored, depth)[0])),
        peer_name="matmul + topk",
        floor=Floor(2.0 * documents * width, 2.0 * documents * width / queries),
        rounds=3,
    )


def _drawn(rows: int, width: int, seed: int) -> Tensor:
    draw, out = torch.Generator("cuda").manual_seed(seed), torch.empty(rows, width, dtype=torch.half, device="cuda")
    for block in torch.split(out, BLOCK):
        numbers = torch.randn(block.shape, generator=draw, device="cuda")
        block.copy_(torch.nn.functional.normalize(numbers))
    return out


def _blocked(asked: Tensor, stored: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """What one writes first: products of blocks, the best of each, the best of those."""
    rows, scores = asked.new_empty(len(asked), 0, dtype=torch.long), asked.new_empty(len(asked), 0)
    for number, block in enumerate(torch.split(stored, BLOCK)):
        best = (asked @ block.T.to(asked.dtype)).topk(min(depth, len(block)))
        rows, scores = torch.cat([rows, best.indices + number * BLOCK], 1), torch.cat([scores, best.values], 1)
        best = scores.topk(min(depth, scores.shape[1]))
        rows, scores = rows.gather(1, best.indices), best.values
    return rows, scores


def _sampled(engine: Engine, asked: np.ndarray, stored: Tensor, depth: int) -> str:
    """Some queries against the product in 32 bits of all documents."""
    some = asked[:: max(1, len(asked) // SAMPLE)][:SAMPLE]
    rows, scores = _blocked(torch.from_numpy(some).cuda(), stored, depth)
    every = engine.search(VectorSet(asked), depth)
    ours = tuple(part[:: max(1, len(asked) // SAMPLE)][:SAMPLE] for part in every)
    return _agree((ours[0], ours[1]), (rows.cpu().numpy(), scores.cpu().numpy()))
