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
    dataset = load(str(tmp_path))
    assert len(documents) == dataset.document_count() == tiny.DOCUMENTS
    for document in dataset.documents():
        assert documents[document.id] == {"title": document.title, "text": document.text}
    assert len(queries) == len(tiny.SPLITS["test"])
    assert {query.id: query.text for query in dataset.queries()} == queries
    assert dataset.qrels() == qrels
