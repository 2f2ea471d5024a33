"""
Vectors: embed texts, store the vectors, search them.

* embedding        embed texts window by window
* window_vectors   collect the vectors of a window, and write them
* tokenised        embed tokenised texts by a trained encoder
* encoders         embed texts by any published encoder
* vectors          a collection's vectors on disk
* nearest          exact and approximate search
* searcher         search queries among passages, both in folders of vectors
"""

from retrobench.retrieval import embedding
from retrobench.retrieval.encoders import (
    Choices,
    Kind,
    PublishedEncoder,
    Settings,
    check_published,
    find,
    load_published,
)
from retrobench.retrieval.nearest import EXACT, Engine, VectorSet, check_index, choose_engine, merge, search
from retrobench.retrieval.searcher import Searcher, retrieve, search_facts
from retrobench.retrieval.tokenised import write_vectors
from retrobench.retrieval.vectors import DTYPES, Vectors, Writer

__all__ = [
    "DTYPES",
    "EXACT",
    "Choices",
    "Engine",
    "Kind",
    "PublishedEncoder",
    "Searcher",
    "Settings",
    "VectorSet",
    "Vectors",
    "Writer",
    "check_index",
    "check_published",
    "choose_engine",
    "embedding",
    "find",
    "load_published",
    "merge",
    "retrieve",
    "search",
    "search_facts",
    "write_vectors",
]
