"""
Vectors: embed texts, store the vectors, search them.

* embedding        embed texts window by window
* window_vectors   collect the vectors of a window, and write them
* tokenised        embed tokenised texts by a trained encoder
* trained          an encoder that was trained here, read as it was scored
* adapters         a trained encoder behind beir's and MTEB's interfaces
* encoders         embed texts by any published encoder
* vectors          a collection's vectors on disk
* nearest          exact and approximate search
* searcher         search queries among passages, both in folders of vectors
* term_coverage    the words that vectors name, by projections to the vocabulary
"""

from retrobench.retrieval import embedding
from retrobench.retrieval.adapters import BeirModel, MtebModel
from retrobench.retrieval.encoders import (
    MODEL_FILES,
    TITLES,
    Choices,
    Kind,
    PublishedEncoder,
    Settings,
    check_published,
    check_weights,
    find,
    load_published,
    read_json,
)
from retrobench.retrieval.nearest import (
    EXACT,
    Engine,
    NumbaEngine,
    Plan,
    TorchEngine,
    VectorSet,
    check_index,
    choose_engine,
    merge,
    search,
)
from retrobench.retrieval.searcher import Searcher, retrieve, search_facts, write_search_facts
from retrobench.retrieval.term_coverage import (
    Texts,
    draw_texts,
    measure_encoder,
    measure_own_head,
    vector_with_words,
    word_groups,
)
from retrobench.retrieval.tokenised import write_vectors
from retrobench.retrieval.trained import TrainedEncoder, check_trained, is_trained, load_trained
from retrobench.retrieval.vectors import DTYPES, Terms, Vectors, Writer

__all__ = [
    "DTYPES",
    "EXACT",
    "MODEL_FILES",
    "TITLES",
    "BeirModel",
    "Choices",
    "Engine",
    "Kind",
    "MtebModel",
    "NumbaEngine",
    "Plan",
    "PublishedEncoder",
    "Searcher",
    "Settings",
    "Terms",
    "Texts",
    "TorchEngine",
    "TrainedEncoder",
    "VectorSet",
    "Vectors",
    "Writer",
    "check_index",
    "check_published",
    "check_trained",
    "check_weights",
    "choose_engine",
    "draw_texts",
    "embedding",
    "find",
    "is_trained",
    "load_published",
    "load_trained",
    "measure_encoder",
    "measure_own_head",
    "merge",
    "read_json",
    "retrieve",
    "search",
    "search_facts",
    "vector_with_words",
    "word_groups",
    "write_search_facts",
    "write_vectors",
]
