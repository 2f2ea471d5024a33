"""
Exact nearest vectors by inner product, ties at the cut included, in memory that does not grow with the collection; a
GPU holds the collection itself where that takes less than six tenths of what is free there (`device`).

* Documents      vectors to search among, mapped from disk or held: `Documents.of(vectors)`
* search         the best k of each query, a block of queries at a time
* merge, shared  rankings of shards to one, and a search shared by the processes of `torch.distributed`
* Approximate    the same by an index of faiss, and what it missed
* UnsoundError   a vector that cannot be ranked by

The result is a function of the vectors alone. A first pass finds, fast and with a proven bound on its error (`bounds`),
what may be among the best; these are scored again by `canonical`, whose score depends on the pair alone. So block
sizes, threads, device, the precision of the first pass and the number of shards change nothing, not a bit.
"""

from retrobench.retrieval.nearest.approximate import EXACT, Approximate, check_index
from retrobench.retrieval.nearest.documents import Documents, UnsoundError
from retrobench.retrieval.nearest.merging import merge, shared
from retrobench.retrieval.nearest.searching import Plan, search

__all__ = [
    "EXACT",
    "Approximate",
    "Documents",
    "Plan",
    "UnsoundError",
    "check_index",
    "merge",
    "search",
    "shared",
]
