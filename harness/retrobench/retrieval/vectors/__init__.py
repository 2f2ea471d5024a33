"""
A collection's vectors on disk: one format, whoever writes it and whoever searches it.

* Vectors.open(folder)   what lies there: `ids`, rows as float32 by `dense(first, last)`, terms by `terms(first, last)`
* Writer                 windows of rows, written by one process or several in any order, taken up after a kill
* Terms                  sparse rows, CSR
* Raw                    where the stored bits lie, for an engine that reads them itself
* DTYPES                 what the dense part may be stored as

A folder holds `manifest.json`, written last, `ids.json`, `dense.npy` [N, d] (bfloat16 as its uint16 bit patterns) and,
for terms over V words, `terms.indptr.npy` int64 [N + 1], `terms.indices.npy` int32, `terms.values.npy` float32 [nnz].
"""

from retrobench.retrieval.vectors.layout import DTYPES, Terms
from retrobench.retrieval.vectors.reading import Raw, Vectors
from retrobench.retrieval.vectors.writing import Writer

__all__ = ["DTYPES", "Raw", "Terms", "Vectors", "Writer"]
