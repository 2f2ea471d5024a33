"""The shipped SQuAD collection in ir_datasets' classes, in memory only.

ir_datasets' own JSON Lines documents would build a store on disk, under a home that may be read-only.
"""

import functools
import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ir_datasets.datasets.base import Dataset
from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries, GenericQuery, TrecQrel
from ir_datasets.formats.base import DocSource, DocSourceSeekableIter, SourceDocIter
from ir_datasets.indices import Docstore

from retrobench.data.embedded import SPLITS, SQUAD, shipped_folder
from retrobench.errors import RetrobenchError

HASHES = {  # SHA-256 of the files as they ship
    "corpus.jsonl.xz": "3ae1f9566fa245a3c7060ab157cfd529bf0e7523faf71ab0dd6bd58979791e96",
    "queries.jsonl.xz": "a68fdce9a1ce7ada6f9f1149707176024f78ebeff9d14e928554c49620437a71",
    "qrels/train.tsv.xz": "55856966bcd61dfec2c4ab7a72a15bb77fdd305a6fd9d93add57212ed5ae3dc3",
    "qrels/fit.tsv.xz": "a7cdbeda3cd39c686d1c16c6768d1155b158a59599bfa3081f8b4ba143d36e54",
    "qrels/val.tsv.xz": "5485943b32e7bc271c0f78784872db3d1c0e36c24645182d3ab5c36f71cf881e",
    "qrels/test.tsv.xz": "d60385766a3689fc10b22f6fcca8f11719d817f9735875810b0db43859cf1d2a",
}


class TitledDoc(NamedTuple):
    """A passage: the title of its Wikipedia article, and its text."""

    doc_id: str
    title: str
    text: str

    def default_text(self) -> str:
        """Return title, space and text, which ir_datasets' other tools index."""
        return f"{self.title} {self.text}"


def _lines(name: str) -> list[bytes]:
    """Return the lines of a file. RetrobenchError for content other than that which was shipped."""
    file = shipped_folder("squad") / name
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RetrobenchError(f"Cannot read {file}: {error.strerror}. Install retrobench again.") from error
    if hashlib.sha256(content).hexdigest() != HASHES[name]:
        raise RetrobenchError(f"{file} is damaged: it is not the file that was shipped. Install retrobench again.")
    return lzma.decompress(content).splitlines()


def _records(name: str) -> list[dict[str, str]]:
    # Parsing one array takes less than half the time of parsing line by line.
    rows = b",".join(_lines(name))
    records: list[dict[str, str]] = json.loads(b"[" + rows + b"]")
    return records


# A process reads each file once: 20,958 passages and 98,169 queries take about 60 MB together.
@functools.cache
def _docs() -> dict[str, TitledDoc]:
    docs = {}
    for row in _records("corpus.jsonl.xz"):
        doc_id = row["_id"]
        docs[doc_id] = TitledDoc(doc_id, row["title"], row["text"])
    return docs


@functools.cache
def _queries() -> dict[str, GenericQuery]:
    queries = {}
    for row in _records("queries.jsonl.xz"):
        query_id = row["_id"]
        queries[query_id] = GenericQuery(query_id, row["text"])
    return queries


@functools.cache
def _qrels(split: str) -> list[TrecQrel]:
    qrels = []
    for line in _lines(f"qrels/{split}.tsv.xz")[1:]:
        query_id, document_id, grade = line.decode().split("\t")
        qrels.append(TrecQrel(query_id, document_id, int(grade), "0"))
    return qrels


# ir_datasets ships no types, so to mypy its classes are Any.
class _SeekableDocs(DocSourceSeekableIter):  # type: ignore[misc]
    def __init__(self, docs: list[TitledDoc]) -> None:
        self.docs = docs
        self.position = 0

    def __next__(self) -> TitledDoc:
        if self.position >= len(self.docs):
            raise StopIteration
        self.position += 1
        return self.docs[self.position - 1]

    def seek(self, pos: int) -> None:
        self.position = pos


class _Source(DocSource):  # type: ignore[misc]
    def __init__(self) -> None:
        self.docs = list(_docs().values())

    def __len__(self) -> int:
        return len(self.docs)

    def __iter__(self) -> _SeekableDocs:
        return _SeekableDocs(self.docs)


class _Store(Docstore):  # type: ignore[misc]
    def get_many_iter(self, doc_ids: Iterable[str]) -> Iterator[TitledDoc]:
        docs = _docs()
        return (docs[doc_id] for doc_id in doc_ids if doc_id in docs)


class SquadDocs(BaseDocs):  # type: ignore[misc]
    """All 20,958 passages, shared by every split."""

    def docs_source_iter(self) -> Iterator[_Source]:
        """Return the only source, for ir_datasets' sliceable iterator."""
        return iter([_Source()])

    def docs_iter(self) -> Any:
        """Return an iterator over the passages that can also be indexed and sliced."""
        return SourceDocIter(self, slice(0, self.docs_count()))

    def docs_count(self) -> int:
        """Return the number of passages."""
        return len(_docs())

    def docs_cls(self) -> type[TitledDoc]:
        """Return the type of a passage."""
        return TitledDoc

    def docs_store(self, field: str = "doc_id") -> _Store:
        """Return the look-up by id, in memory."""
        return _Store(TitledDoc, field)

    def docs_namespace(self) -> str:
        """Return the namespace. Splits of a namespace share their ids."""
        return SQUAD

    def docs_lang(self) -> str:
        """Return English."""
        return "en"


class SquadQueries(BaseQueries):  # type: ignore[misc]
    """The questions judged in one split, in the order of its judgements."""

    def __init__(self, split: str) -> None:
        self.split = split

    def queries_iter(self) -> Iterator[GenericQuery]:
        """Yield the split's questions."""
        return (_queries()[qrel.query_id] for qrel in _qrels(self.split))

    def queries_count(self) -> int:
        """Return the number of questions. Each question has a single judgement."""
        return len(_qrels(self.split))

    def queries_lang(self) -> str:
        """Return English."""
        return "en"


class SquadQrels(BaseQrels):  # type: ignore[misc]
    """For each question of one split, the passage it was asked about."""

    def __init__(self, split: str) -> None:
        self.split = split

    def qrels_iter(self) -> Iterator[TrecQrel]:
        """Yield the split's judgements."""
        return iter(_qrels(self.split))

    def qrels_count(self) -> int:
        """Return the number of judgements."""
        return len(_qrels(self.split))

    def qrels_cls(self) -> Any:
        """Return the type of a judgement."""
        return TrecQrel

    def qrels_defs(self) -> dict[int, str]:
        """Return the meaning of the only grade."""
        return {1: "The passage the question was written about, which answers it."}


def datasets() -> dict[str, Any]:
    """Return ir_datasets' datasets by id, the parent first."""
    docs = SquadDocs()
    by_id = {SQUAD: Dataset(docs)}
    for split in SPLITS:
        queries = SquadQueries(split)
        qrels = SquadQrels(split)
        by_id[f"{SQUAD}/{split}"] = Dataset(docs, queries, qrels)
    return by_id
