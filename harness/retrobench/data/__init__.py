"""
Collections: documents, queries and judgements, and their texts as tokens.

* datasets    load a dataset by its id
* identifiers the ids and grades that a TREC file can carry
* limited     datasets cut to a few documents and questions
* collection  a dataset with the hashes of its documents, queries and judgements
* overlap     questions that two datasets share
* rules       the rule by which each dataset is scored
* groups      the groups of datasets, and their averages
* clusters    queries that depend on each other
* catalogue   ir_datasets: its records and its downloads
* folder      collections in folders: BEIR's layout, TSV, `dataset.toml`
* tokens      tokenised texts on disk
* listing     list the datasets
* fetching    download or build datasets
* doctor      check datasets
* build       make the collections that ir_datasets lacks
* embedded    the collection, tokenizer and base model that ship with the package

A process that reads the shipped collection calls `register()` first: importing this room changes nothing.
"""

from retrobench.data import build, catalogue, doctor, groups, rules
from retrobench.data.build import BUILDERS
from retrobench.data.catalogue import quiet_ir_datasets
from retrobench.data.clusters import query_clusters
from retrobench.data.collection import Collection, Corpus, document_rows, open_collections, query_rows
from retrobench.data.datasets import Dataset, Document, Exclusions, FolderDataset, digest, load
from retrobench.data.embedded import MODELS, register, shipped_folder
from retrobench.data.fetching import fetch_dataset, is_local, local_dataset, local_questions
from retrobench.data.identifiers import LARGEST_GRADE, TOO_LARGE, UNFIT, fits_trec
from retrobench.data.limited import Part
from retrobench.data.listing import list_datasets
from retrobench.data.overlap import Overlap, Questions, find_overlap, read_questions
from retrobench.data.tables import scored_pairs
from retrobench.data.tokens import (
    TextRow,
    TokenChunk,
    TokenisedTexts,
    by_length,
    vocabulary,
    write_chunks,
    write_tokens,
)

__all__ = [
    "BUILDERS",
    "LARGEST_GRADE",
    "MODELS",
    "TOO_LARGE",
    "UNFIT",
    "Collection",
    "Corpus",
    "Dataset",
    "Document",
    "Exclusions",
    "FolderDataset",
    "Overlap",
    "Part",
    "Questions",
    "TextRow",
    "TokenChunk",
    "TokenisedTexts",
    "build",
    "by_length",
    "catalogue",
    "digest",
    "doctor",
    "document_rows",
    "fetch_dataset",
    "find_overlap",
    "fits_trec",
    "groups",
    "is_local",
    "list_datasets",
    "load",
    "local_dataset",
    "local_questions",
    "open_collections",
    "query_clusters",
    "query_rows",
    "quiet_ir_datasets",
    "read_questions",
    "register",
    "rules",
    "scored_pairs",
    "shipped_folder",
    "vocabulary",
    "write_chunks",
    "write_tokens",
]
