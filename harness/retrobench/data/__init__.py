"""
Collections: documents, queries and judgements, and their texts as tokens.

* datasets   load a dataset by its id
* rules      how each dataset is scored, and what stands behind the name of a group
* catalogue  ir_datasets: what it knows, and what it downloads
* folder     collections in folders: BEIR's layout, TSV, `dataset.toml`
* tokens     tokenised texts on disk
* doctor     list, fetch and check datasets
* build      make the collections that ir_datasets lacks
* embedded   the collection, tokenizer and base model that ship with the package
"""

from retrobench.data import build, catalogue, doctor, rules
from retrobench.data.build import BUILDERS
from retrobench.data.datasets import Dataset, Document, FolderDataset, digest, load, training_pairs
from retrobench.data.embedded import MODELS, path
from retrobench.data.tokens import TokenChunk, TokenisedTexts, by_length, vocabulary, write_chunks, write_tokens

__all__ = [
    "BUILDERS",
    "MODELS",
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
    "path",
    "rules",
    "training_pairs",
    "vocabulary",
    "write_chunks",
    "write_tokens",
]
