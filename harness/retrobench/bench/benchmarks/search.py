"""
Exact search beside faiss's flat index, a plain product with topk, and sentence-transformers' semantic_search.

The vectors are random, of length 1, and in memory as float32. Every side prepares itself before the clock starts. On a
GPU the collection is as large as MS MARCO's, and stored as float16. On a processor our compiled engine also runs beside
our torch engine: it pays for its code where it is over 15 % faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.frame import Case, Floor, UnequalError
from retrobench.bench.setting import Setting
from retrobench.bench.texts import unit
from retrobench.model import has_int8_product
from retrobench.retrieval import Engine, Plan, Terms, VectorSet, choose_engine, search

__all__ = ["cases"]

DEPTHS = (10, 100, 1000)
BLOCK = 2**16  # documents of a GPU's peer at a time
WORDS = 30522  # of a sparse vector's vocabulary
TERMS = 100  # of a sparse vector
SAMPLE = 64  # queries whose answer by a GPU is compared with products in 32 bits
Hits = tuple[np.ndarray, np.ndarray]  # rows and scores [Q, k]
Peer = Callable[[np.ndarray, int], Hits]  # queries [Q, d] and k to the best k of each


def cases(setting: Setting) -> Iterator[Case]:
    """Yield cases of 200 queries and of a single one on a processor, of 6,980 on a GPU."""
    if setting.cuda:
        return _on_gpu(setting)
    return _on_processor(setting)


def _on_processor(setting: Setting) -> Iterator[Case]:
    count, query_count, width = 100_000, 200, 384
    if setting.smoke:
        count, query_count, width = 20_000, 40, 64
    vectors = unit(count, width, 0)
    queries = unit(query_count, width, 1)
    documents = VectorSet(vectors)
    tie_ranks = np.arange(count, dtype=np.int32)
    _ = documents.census
    peers = _peers(vectors)
    size = f"{count:,} x {width}"
    flops = 2.0 * count * width  # of a query
    collection_bytes = 4.0 * count * width
    # The products that the engine computes: of rounded vectors where the processor does so fast.
    floor = Floor(flops, collection_bytes / query_count, "int8" if has_int8_product(width) else "fp32")
    for depth in DEPTHS:
        ours = partial(_ours, queries, documents, depth, tie_ranks)
        for peer_name, peer in peers.items():
            name = f"top {depth} of {size}, {query_count} queries, beside {peer_name}"
            yield _case(name, ours, partial(peer, queries, depth), peer_name, floor)
    query = queries[:1]
    floor = Floor(flops, collection_bytes, "fp32")
    for depth in DEPTHS:
        ours = partial(_ours, query, documents, depth, tie_ranks)
        if "faiss flat" in peers:
            theirs = partial(peers["faiss flat"], query, depth)
            yield _case(f"top {depth} of {size}, one query", ours, theirs, "faiss flat", floor)
    yield from _beside_torch(documents, VectorSet(queries), size)
    terms = VectorSet(None, _draw_terms(count, 0), WORDS)
    query_terms = VectorSet(None, _draw_terms(query_count, 1), WORDS)
    yield from _beside_torch(terms, query_terms, f"{count:,} sparse vectors")


def _case(
    name: str, ours: Callable[[], Hits], peer: Callable[[], Hits], peer_name: str, floor: Floor | None = None
) -> Case:
    return Case(
        name=name,
        unit="queries/s",
        ours=lambda: float(len(ours()[0])),
        check=lambda: _agree(ours(), peer()),
        peer=lambda: float(len(peer()[0])),
        peer_name=peer_name,
        floor=floor,
        rounds=5,
        warmups=0,  # the round that measures memory is one
    )


def _beside_torch(documents: VectorSet, queries: VectorSet, size: str) -> Iterator[Case]:
    """Yield cases of our two engines on the processor, of all queries and of one."""
    depth = 100
    tie_ranks = np.arange(len(documents), dtype=np.int32)
    compiled = choose_engine(documents, tie_ranks)
    blocks = {f"{len(queries)} queries": queries, "one query": queries.slice(0, 1)}
    for block_name, block in blocks.items():
        torch_engine = _faster_torch_engine(documents, tie_ranks, block, depth)
        ours = partial(compiled.search, block, depth)
        theirs = partial(torch_engine.search, block, depth)
        name = f"top {depth} of {size}, {block_name}, beside our torch engine"
        yield _case(name, ours, theirs, "torch engine")


def _faster_torch_engine(documents: VectorSet, tie_ranks: np.ndarray, queries: VectorSet, depth: int) -> Engine:
    """Return the torch engine with the first pass that is faster on this processor: in bfloat16 or in 32 bits."""
    plans = (Plan(device="cpu", first="rounded"), Plan(device="cpu", first="fp32"))
    engines = [choose_engine(documents, tie_ranks, plan=plan) for plan in plans]
    seconds = []
    for engine in engines:
        engine.search(queries, depth)  # warm up
        start = time.perf_counter()
        engine.search(queries, depth)
        seconds.append(time.perf_counter() - start)
    return engines[int(np.argmin(seconds))]


def _draw_terms(rows: int, seed: int) -> Terms:
    """Draw sparse vectors. Gaps between words grow, so that the first words are the most common."""
    draw = np.random.default_rng(seed)
    widest = 2 * (WORDS - TERMS) / TERMS**2 * np.arange(TERMS)
    gaps = 1 + draw.random((rows, TERMS)) * widest
    indices = np.cumsum(gaps.astype(np.int32), axis=1, dtype=np.int32) - np.int32(1)
    weights = draw.random(rows * TERMS).astype(np.float32)
    return Terms(np.arange(rows + 1) * TERMS, indices.ravel(), weights)


def _ours(queries: np.ndarray, documents: VectorSet, depth: int, tie_ranks: np.ndarray) -> Hits:
    blocks = search(VectorSet(queries), documents, depth, tie_ranks)
    rows, scores = zip(*blocks, strict=True)
    return np.concatenate(rows), np.concatenate(scores)


def _faiss(vectors: np.ndarray) -> dict[str, Peer]:
    """Return faiss' flat index as a peer; none where faiss is not installed, which no run needs."""
    if find_spec("faiss") is None:
        return {}
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def flat(queries: np.ndarray, depth: int) -> Hits:
        scores, rows = index.search(queries, depth)
        return rows, scores

    return {"faiss flat": flat}


def _peers(vectors: np.ndarray) -> dict[str, Peer]:
    from sentence_transformers.util import dot_score, semantic_search

    tensor = torch.from_numpy(vectors)

    def product(queries: np.ndarray, depth: int) -> Hits:
        scores = torch.from_numpy(queries) @ tensor.T
        best = scores.topk(depth)
        return best.indices.numpy(), best.values.numpy()

    def semantic(queries: np.ndarray, depth: int) -> Hits:
        query_vectors = torch.from_numpy(queries)
        rankings: Any = semantic_search(query_vectors, tensor, top_k=depth, score_function=dot_score)
        rows = []
        scores = []
        for ranking in rankings:
            rows.append([hit["corpus_id"] for hit in ranking])
            scores.append([hit["score"] for hit in ranking])
        return np.asarray(rows), np.asarray(scores, np.float32)

    return {**_faiss(vectors), "matmul + topk": product, "semantic_search": semantic}


def _agree(ours: Hits, peer: Hits) -> str:
    """Check that both sides find the same documents, save where the peer's rounding matters at the cut."""
    our_rows, our_scores = ours
    peer_rows, peer_scores = peer
    differences = np.abs(our_scores - peer_scores)
    difference = float(differences.max())
    if not difference <= 2e-6:
        raise UnequalError(f"Scores of the same ranks are {difference:.2g} apart, of at most 2e-06. Nothing was timed.")
    recalls = []
    for our_ranking, peer_ranking in zip(our_rows, peer_rows, strict=True):
        is_shared = np.isin(our_ranking, peer_ranking)
        recalls.append(is_shared.mean())
    shared = np.mean(recalls)
    if shared < 0.999:
        raise UnequalError(f"Only {shared:.4f} of the documents are the peer's. Nothing was timed.")
    return f"recall {shared:.4f} of the peer's documents, scores within {difference:.1g}"


def _on_gpu(setting: Setting) -> Iterator[Case]:
    count, query_count, width, depth = 8_841_823, 6_980, 768, 1000
    if setting.smoke:
        count, query_count, width, depth = 50_000, 64, 64, 100
    stored = _drawn(count, width, 0)
    queries = _drawn(query_count, width, 1).float().cpu().numpy()
    documents = VectorSet(stored.cpu().numpy(), stored="float16")
    engine = choose_engine(documents, np.arange(count, dtype=np.int32))
    peer_queries = torch.from_numpy(queries).cuda().half()
    flops = 2.0 * count * width  # of a query
    collection_bytes = 2.0 * count * width
    yield Case(
        name=f"top {depth} of {count:,} x {width}, {query_count:,} queries",
        unit="queries/s",
        ours=lambda: float(len(engine.search(VectorSet(queries), depth)[0])),
        check=lambda: _check_sample(engine, queries, stored, depth),
        peer=lambda: float(len(_by_blocks(peer_queries, stored, depth)[0])),
        peer_name="matmul + topk",
        floor=Floor(flops, collection_bytes / query_count),
        rounds=3,
    )


def _drawn(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    vectors = torch.empty(rows, width, dtype=torch.half, device="cuda")
    for block in torch.split(vectors, BLOCK):
        numbers = torch.randn(block.shape, generator=generator, device="cuda")
        block.copy_(torch.nn.functional.normalize(numbers))
    return vectors


def _by_blocks(queries: Tensor, stored: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Search as a first draft would: products of blocks, the best of each block, the best of all."""
    rows = queries.new_empty(len(queries), 0, dtype=torch.long)
    scores = queries.new_empty(len(queries), 0)
    for number, block in enumerate(torch.split(stored, BLOCK)):
        first_row = number * BLOCK
        # No name for the product of a block: it would stay in memory, which is measured, beside the next one.
        best = (queries @ block.T.to(queries.dtype)).topk(min(depth, len(block)))
        rows = torch.cat([rows, best.indices + first_row], 1)
        scores = torch.cat([scores, best.values], 1)
        best = scores.topk(min(depth, scores.shape[1]))
        rows = rows.gather(1, best.indices)
        scores = best.values
    return rows, scores


def _check_sample(engine: Engine, queries: np.ndarray, stored: Tensor, depth: int) -> str:
    """Compare a sample of queries with the product in 32 bits of all documents."""
    step = max(1, len(queries) // SAMPLE)
    sample = np.arange(0, len(queries), step)[:SAMPLE]
    peer_queries = torch.from_numpy(queries[sample]).cuda()
    peer_rows, peer_scores = _by_blocks(peer_queries, stored, depth)
    peer = (peer_rows.cpu().numpy(), peer_scores.cpu().numpy())
    our_rows, our_scores = engine.search(VectorSet(queries), depth)
    ours = (our_rows[sample], our_scores[sample])
    return _agree(ours, peer)
