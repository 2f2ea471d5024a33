"""
Collections: documents, queries and judgements, and their texts as tokens.

* datasets   load a dataset by its id
* collection a dataset with the hashes of everything in it
* rules      how each dataset is scored, and what stands behind the name of a group
* catalogue  ir_datasets: what it knows, and what it downloads
* folder     collections in folders: BEIR's layout, TSV, `dataset.toml`
* tokens     tokenised texts on disk
* doctor     list, fetch and check datasets
* build      make the collections that ir_datasets lacks
* embedded   the collection, tokenizer and base model that ship with the package

A process that reads the shipped collection calls `register()` first: importing this room changes nothing.
"""

from retrobench.data import build, catalogue, doctor, rules
from retrobench.data.build import BUILDERS
from retrobench.data.catalogue import quiet_ir_datasets
from retrobench.data.collection import Collection, Corpus, open_collections
from retrobench.data.datasets import Dataset, Document, FolderDataset, digest, load
from retrobench.data.embedded import MODELS, path, register
from retrobench.data.tokens import TokenChunk, TokenisedTexts, by_length, vocabulary, write_chunks, write_tokens

__all__ = [
    "BUILDERS",
    "MODELS",
    "Collection",
    "Corpus",
    "Dataset",
    "Document",
    "FolderDataset",
    "TokenChunk",
    "TokenisedTexts",
    "build",
    "by_length",
    "catalogue",
    "digest",
    "doctor",
    "load",
    "open_collections",
    "path",
    "quiet_ir_datasets",
    "register",
    "rules",
    "vocabulary",
    "write_chunks",
    "write_tokens",
]
