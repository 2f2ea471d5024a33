"""
Exact nearest vectors by inner product, ties at the cut included, in memory that does not grow with the collection. A
GPU holds the collection itself where that takes less than six tenths of its free memory.

* VectorSet              vectors to search, mapped from disk by `VectorSet.of(vectors)`, or in memory
* search                 the best k documents of each query, a block of queries at a time
* choose_engine, Engine  documents made ready for `search` on one device, by NumbaEngine or TorchEngine
* merge, shared          rankings of shards merged, and a search shared by the processes of `torch.distributed`
* Approximate            search with an index of faiss, and its recall
* UnsoundError           a vector that cannot be ranked

The result depends on the vectors alone. A fast first pass, with a proven bound on its error (`bounds`), finds the
documents that may be among the best. These are scored again by `canonical`, whose score depends on the pair alone. So
block sizes, threads, device, engine, the precision of the first pass and the number of shards change no bit of it.
"""

from retrobench.retrieval.nearest.approximate import EXACT, Approximate, check_index
from retrobench.retrieval.nearest.engine import Engine
from retrobench.retrieval.nearest.kernels import TopK
from retrobench.retrieval.nearest.merging import merge, shared
from retrobench.retrieval.nearest.numba_engine import NumbaEngine
from retrobench.retrieval.nearest.plan import Plan
from retrobench.retrieval.nearest.searching import choose_engine, search
from retrobench.retrieval.nearest.torch_engine import TorchEngine
from retrobench.retrieval.nearest.vector_set import UnsoundError, VectorSet

__all__ = [
    "EXACT",
    "Approximate",
    "Engine",
    "NumbaEngine",
    "Plan",
    "TopK",
    "TorchEngine",
    "UnsoundError",
    "VectorSet",
    "check_index",
    "choose_engine",
    "merge",
    "search",
    "shared",
]
