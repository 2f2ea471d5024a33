"""
A collection's vectors on disk, in one format for all that write and search them.

* Vectors   read a folder: `ids`, rows as float32 by `dense(first, last)`, terms by `terms(first, last)`
* Writer    write windows of rows, by one process or several in any order; a killed run is resumed
* Terms     sparse rows, CSR; `TermPieces` in pieces, which a writer takes too
* Raw       the file of the stored bits, for an engine that reads them itself
* DTYPES    the stored types of the dense part

A folder holds `manifest.json`, written last, `ids.json` and `dense.npy` [N, d], in which bfloat16 is stored as uint16.
Terms over V words are `terms.indptr.npy` int64 [N + 1], `terms.indices.npy` int32 and `terms.values.npy` float32 [nnz].
"""

from retrobench.retrieval.vectors.layout import DTYPES, TermPieces, Terms
from retrobench.retrieval.vectors.reading import Raw, Vectors
from retrobench.retrieval.vectors.writing import Writer

__all__ = ["DTYPES", "Raw", "TermPieces", "Terms", "Vectors", "Writer"]
