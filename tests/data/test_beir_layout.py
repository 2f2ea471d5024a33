"""A folder in BEIR's layout is read as BEIR's own loader reads it."""

from __future__ import annotations

import warnings
from pathlib import Path

import tiny

from retrobench.data.datasets import load


def test_a_folder_reads_as_beirs_own_loader_reads_it(tmp_path: Path) -> None:
    from beir.datasets.data_loader import GenericDataLoader

    tiny.write_collection(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # beir leaves closing its files to the garbage collector
        documents, queries, qrels = GenericDataLoader(str(tmp_path)).load(split="test")
    ours = load(str(tmp_path))
    assert [(d.id, d.title, d.text) for d in ours.documents()] == [
        (key, document["title"], document["text"]) for key, document in documents.items()
    ]
    assert {query.id: query.text for query in ours.queries()} == queries
    assert ours.qrels() == qrels
    assert len(documents) == tiny.DOCUMENTS and len(queries) == len(tiny.SPLITS["test"])
