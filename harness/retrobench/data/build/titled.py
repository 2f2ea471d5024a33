"""
The MS MARCO passages with titles: RocketQA's files, joined as RetroMAE, Tevatron and bowdpr join them.

RocketQA linked each passage to its MS MARCO document and copied the document's title. RocketQA's archive gives the
passages, the training and dev queries and the dev judgements. MS MARCO and TREC give the training judgements, the TREC
topics and the triples behind the negatives. The papers report results on this corpus.
"""

from __future__ import annotations

import itertools
import mmap
from array import array
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrobench.core import bar
from retrobench.data import rules
from retrobench.data.build import official, sources
from retrobench.data.build.sources import Remote
from retrobench.data.build.writing import (
    Site,
    check_counts,
    make,
    write_corpus,
    write_description,
    write_negatives,
    write_qrels,
    write_queries,
)
from retrobench.data.tables import IdPair, Judgement
from retrobench.data.tokens import TextRow
from retrobench.errors import RetrobenchError

__all__ = ["PUBLISHED", "Titled", "first_negatives"]

# Nobody publishes a hash of the archive; its size stands in github.com/ma787639046/bowdpr/issues/1.
ROCKETQA = Remote("marco.tar.gz", ("https://rocketqa.bj.bcebos.com/corpus/marco.tar.gz",), 1_140_510_742)
MEMBERS = ("para.txt", "para.title.txt", "train.query.txt", "dev.query.txt", "qrels.dev.tsv")

# As in etc/metadata.json of ir_datasets 0.6.3, where dev is msmarco-passage/dev/small.
PUBLISHED = {
    "passages": 8_841_823,
    "train queries": 502_939,
    "train judgements": 532_761,
    "dev queries": 6_980,
    "dev judgements": 7_437,
    "dl19 queries": 43,
    "dl19 judgements": 9_260,
    "dl20 queries": 54,
    "dl20 judgements": 11_386,
}
TRIPLES = 397_768_673

TITLE = "MS MARCO passages with RocketQA's titles"
TOPICS = {"dl19": official.DL19, "dl20": official.DL20}
DEEP = rules.rule("msmarco-passage/trec-dl-2019")

BAR_STEP = 100_000  # rows between two updates of the bar


@dataclass(frozen=True)
class Titled:
    """
    Builds `msmarco-titled`: splits train (with negatives), dev, dl19 and dl20.

    `negatives` is the number of negatives per query, the first in the order of the official triples. RetroMAE samples
    from the first 200 (`--sample_neg_from_topk 200`). A `sample` is not compared with the published counts.
    """

    negatives: int = 200
    sample: bool = False

    def __call__(self, folder: Path) -> str:
        """Build into `folder`, and return a line about the result."""
        return make(folder, self._fill)

    def _fill(self, site: Site) -> str:
        # All downloads come before any work.
        archive = _archive_folder(site)
        splits = _read_splits(archive, site)
        triples = official.triples(site)
        passages = _index(archive)
        counts = {"passages": write_corpus(site, _documents(archive, passages))}
        texts: dict[str, str] = {}
        query_counts = []
        for split in splits:
            judgements = list(split.qrels)
            _check_judgements(split, judgements, passages)
            judged_texts = {query_id: split.queries[query_id] for query_id, _, _ in judgements}
            query_count = len(judged_texts)
            counts[f"{split.name} judgements"] = write_qrels(site, split.name, judgements)
            counts[f"{split.name} queries"] = query_count
            query_counts.append(f"{query_count:,} {split.name}")
            texts |= judged_texts
        if not self.sample:
            check_counts(site, counts, PUBLISHED)
        write_queries(site, texts)
        negatives = write_negatives(site, "train", first_negatives(triples, self.negatives))
        rule = rules.rule("msmarco-passage/dev/small")
        write_description(site, TITLE, rule, dict.fromkeys(TOPICS, DEEP))
        titled = int((passages.titles >= 0).sum())
        return (
            f"{counts['passages']:,} passages, {titled:,} with a title; queries: {', '.join(query_counts)}; "
            f"{negatives:,} negatives, the first {self.negatives} of each training query."
        )


@dataclass(frozen=True)
class _Split:
    """A split's query texts by id, judged or not, and its judgements."""

    name: str
    queries: dict[str, str]
    qrels: Iterable[Judgement]


@dataclass(frozen=True)
class _Passages:
    """The ids [N] of para.txt, ascending, and the byte positions of texts and titles in their files (-1: no title)."""

    ids: NDArray[np.int64]
    texts: NDArray[np.int64]
    titles: NDArray[np.int64]


def _archive_folder(site: Site) -> Path:
    """Return the folder of the archive's files: `marco` among the sources, else the unpacked archive."""
    if (site.sources / "marco" / MEMBERS[0]).is_file():
        return site.sources / "marco"
    sources.unpack(sources.download(ROCKETQA, site.sources), MEMBERS, site.scratch)
    return site.scratch


def _read_splits(archive: Path, site: Site) -> list[_Split]:
    train_queries = dict(official.read_texts(archive / "train.query.txt"))
    dev_queries = dict(official.read_texts(archive / "dev.query.txt"))
    splits = [
        _Split("train", train_queries, official.qrels(official.TRAIN_QRELS, site)),
        _Split("dev", dev_queries, official.read_judgements(archive / "qrels.dev.tsv")),
    ]
    for name, topics in TOPICS.items():
        queries = dict(official.queries(topics.queries, site))
        splits.append(_Split(name, queries, official.qrels(topics.qrels, site)))
    return splits


def _check_judgements(split: _Split, judgements: Collection[Judgement], passages: _Passages) -> None:
    """Raise RetrobenchError for the first judgement of a query or passage that does not exist."""
    for query_id, _, _ in judgements:
        if query_id not in split.queries:
            raise RetrobenchError(f"The {split.name} judgements name query {query_id}, of which no text was found.")
    judged = np.array([int(passage_id) for _, passage_id, _ in judgements])
    is_absent = ~np.isin(judged, passages.ids)
    absent = judged[is_absent]
    if len(absent):
        raise RetrobenchError(f"The {split.name} judgements name passage {absent[0]}, which para.txt lacks.")


def _index(archive: Path) -> _Passages:
    # 8 bytes per number: 0.3 GB for the whole collection, where the texts themselves would be 4 GB.
    ids, texts = _text_positions(archive / "para.txt")
    titled_ids, title_positions = _text_positions(archive / "para.title.txt")
    titles = np.full(len(ids), -1)
    if len(titled_ids):
        last_row = len(titled_ids) - 1
        rows = np.searchsorted(titled_ids, ids).clip(max=last_row)
        is_titled = titled_ids[rows] == ids
        titles = np.where(is_titled, title_positions[rows], -1)
    return _Passages(ids, texts, titles)


def _text_positions(file: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids of a file of `id TAB text` lines, ascending, and the byte position of each text."""
    ids = array("q")
    positions = array("q")
    line_position = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            identifier, tab, _ = line.partition(b"\t")
            if not tab or not identifier.isdigit():
                raise RetrobenchError(f"{file}, line {number}: a passage id, a tab and a text were expected.")
            ids.append(int(identifier))
            positions.append(line_position + len(identifier) + 1)
            line_position += len(line)
    unsorted_ids = np.asarray(ids, dtype=np.int64)
    order = np.argsort(unsorted_ids, kind="stable")
    ascending = unsorted_ids[order]
    is_repeated = ascending[1:] == ascending[:-1]
    repeated = ascending[1:][is_repeated]
    if len(repeated):
        raise RetrobenchError(f"{file} has passage {repeated[0]} twice.")
    return ascending, np.asarray(positions, dtype=np.int64)[order]


def _documents(archive: Path, passages: _Passages) -> Iterator[TextRow]:
    """Yield id, title and text in numerical order; a missing title is empty.

    The recipes do this by `join -a 1 -e '' -o 1.1 2.2 1.2 | sort -n`.
    """
    count = len(passages.ids)
    with (
        _mapped(archive / "para.txt") as texts,
        _mapped(archive / "para.title.txt") as titles,
        bar("titled passages", count, "passages") as advance,
    ):
        for start in range(0, count, BAR_STEP):
            rows = slice(start, start + BAR_STEP)
            ids = passages.ids[rows].tolist()
            title_positions = passages.titles[rows].tolist()
            text_positions = passages.texts[rows].tolist()
            for passage_id, title_position, text_position in zip(ids, title_positions, text_positions, strict=True):
                title = "" if title_position < 0 else _read_field(titles, title_position)
                yield str(passage_id), title, _read_field(texts, text_position)
            advance(len(ids))


@contextmanager
def _mapped(file: Path) -> Iterator[mmap.mmap | bytes]:
    if file.stat().st_size == 0:  # an empty file cannot be mapped
        yield b""
        return
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _read_field(content: mmap.mmap | bytes, start: int) -> str:
    """Return the text from a position to the next tab or line end. `join` drops the columns after another tab."""
    end = content.find(b"\n", start)
    if end < 0:
        end = len(content)
    return content[start:end].rstrip(b"\r").partition(b"\t")[0].decode()


def first_negatives(triples: Path, per_query: int) -> Iterator[IdPair]:
    """Yield query id and passage id of each query's first negatives, in the order of the triples.

    Repeated negatives are yielded again, as in the recipes.
    """
    counts: dict[int, int] = {}
    with bar("negatives", TRIPLES, "triples") as advance:
        for queries, passages in _triple_batches(triples):
            # The lines of a query stand together, except at the ends of a batch.
            starts = np.flatnonzero(np.diff(queries, prepend=-1))
            for start, end in itertools.pairwise([*starts, len(queries)]):
                query = int(queries[start])
                count = counts.get(query, 0)
                last = min(end, start + per_query - count)
                negatives = passages[start:last].tolist()
                counts[query] = count + len(negatives)
                for passage in negatives:
                    yield str(query), str(passage)
            advance(len(queries))


def _triple_batches(triples: Path) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Yield queries and negatives of a file of three numbers to a line, some thousand lines at a time."""
    import pyarrow as pa
    import pyarrow.csv as csv

    names = ("query", "answer", "negative")
    try:
        with csv.open_csv(
            triples,
            csv.ReadOptions(column_names=names),
            csv.ParseOptions(delimiter="\t"),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int32())),
        ) as batches:
            for batch in batches:
                yield batch.column("query").to_numpy(), batch.column("negative").to_numpy()
    except (pa.ArrowInvalid, OSError) as error:
        raise sources.damaged(triples, error) from None
