"""
The MS MARCO passages with titles: RocketQA's files, joined as RetroMAE, Tevatron and bowdpr join them.

RocketQA linked each passage to the MS MARCO document it is from and took over its title. The archive's passages,
training and dev queries and dev judgements are used as they are; the training judgements, the TREC topics and the
triples that the negatives are taken from are the official ones. The papers' figures are on this corpus.
"""

from __future__ import annotations

import itertools
import mmap
from array import array
from collections.abc import Iterable, Iterator
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
    expect,
    make,
    write_corpus,
    write_description,
    write_negatives,
    write_qrels,
    write_queries,
)
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

AT_A_TIME = 100_000  # rows between two looks at the clock


@dataclass(frozen=True)
class Titled:
    """
    Builds `msmarco-titled`: splits train (with negatives), dev, dl19 and dl20.

    `negatives` is how many of a query's are kept, the first ones in the order of the official triples: RetroMAE
    samples from the first 200 (`--sample_neg_from_topk 200`). A `sample` is not held to the published counts.
    """

    negatives: int = 200
    sample: bool = False

    def __call__(self, folder: Path) -> str:
        """Build into `folder` and say what was made."""
        return make(folder, self._fill)

    def _fill(self, site: Site) -> str:
        marco = _marco(site)
        splits, triples = _splits(marco, site), official.triples(site)  # all downloads come before any work
        passages = _index(marco)
        counts = {"passages": write_corpus(site, _documents(marco, passages))}
        texts: dict[str, str] = {}
        for split, (queries, qrels) in splits.items():
            judgements = list(qrels)
            judged = dict.fromkeys(query for query, _, _ in judgements)
            _resolve(split, judgements, queries, passages)
            counts[f"{split} judgements"] = write_qrels(site, split, judgements)
            counts[f"{split} queries"] = len(judged)
            texts |= {query: queries[query] for query in judged}
        if not self.sample:
            expect(site, counts, PUBLISHED)
        write_queries(site, texts)
        negatives = write_negatives(site, "train", first_negatives(triples, self.negatives))
        write_description(site, TITLE, rules.rule("msmarco-passage/dev/small"), dict.fromkeys(TOPICS, DEEP))
        return (
            f"{counts['passages']:,} passages, {int((passages.titles >= 0).sum()):,} with a title; queries: "
            + ", ".join(f"{counts[f'{split} queries']:,} {split}" for split in ("train", "dev", *TOPICS))
            + f"; {negatives:,} negatives, the first {self.negatives} of each training query."
        )


@dataclass(frozen=True)
class _Passages:
    """The ids [N] of para.txt, ascending, and where in the two files text and title of each begin (-1: no title)."""

    ids: NDArray[np.int64]
    texts: NDArray[np.int64]
    titles: NDArray[np.int64]


def _marco(site: Site) -> Path:
    """The folder with the archive's files: one put among the sources unpacked, else the archive is."""
    if (site.sources / "marco" / MEMBERS[0]).is_file():
        return site.sources / "marco"
    sources.unpack(sources.fetch(ROCKETQA, site.sources), MEMBERS, site.scratch)
    return site.scratch


def _splits(marco: Path, site: Site) -> dict[str, tuple[dict[str, str], Iterable[tuple[str, str, int]]]]:
    """Of each split the text of its queries, some of which may be judged nowhere, and the judgements."""
    found: dict[str, tuple[dict[str, str], Iterable[tuple[str, str, int]]]] = {
        "train": (dict(official.texts(marco / "train.query.txt")), official.qrels(official.TRAIN_QRELS, site)),
        "dev": (dict(official.texts(marco / "dev.query.txt")), official.judged(marco / "qrels.dev.tsv")),
    }
    for split, topics in TOPICS.items():
        found[split] = dict(official.queries(topics.queries, site)), official.qrels(topics.qrels, site)
    return found


def _resolve(split: str, judgements: list[tuple[str, str, int]], queries: dict[str, str], passages: _Passages) -> None:
    """Raise for the first judgement of a query or passage that is not there."""
    lost = next((query for query, _, _ in judgements if query not in queries), None)
    if lost is not None:
        raise RetrobenchError(f"The {split} judgements name query {lost}, of which no text was found.")
    named = np.array([int(passage) for _, passage, _ in judgements])
    absent = named[~np.isin(named, passages.ids)]
    if len(absent):
        raise RetrobenchError(f"The {split} judgements name passage {absent[0]}, which para.txt lacks.")


def _index(marco: Path) -> _Passages:
    # 8 bytes per number: 0.3 GB for the whole collection, where the texts themselves would be 4 GB.
    ids, texts = _starts(marco / "para.txt")
    known, at = _starts(marco / "para.title.txt")
    place = np.searchsorted(known, ids).clip(max=max(len(known) - 1, 0))
    titles = np.where(known[place] == ids, at[place], -1) if len(known) else np.full(len(ids), -1)
    return _Passages(ids, texts, titles)


def _starts(file: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ids of a file of `id TAB text` lines, ascending, and the byte where the text of each begins."""
    ids, starts, at = array("q"), array("q"), 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            key, tab, _ = line.partition(b"\t")
            if not tab or not key.isdigit():
                raise RetrobenchError(f"{file}, line {number}: a passage id, a tab and a text were expected.")
            ids.append(int(key))
            starts.append(at + len(key) + 1)
            at += len(line)
    numbers = np.asarray(ids, dtype=np.int64)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    twice = numbers[1:][numbers[1:] == numbers[:-1]]
    if len(twice):
        raise RetrobenchError(f"{file} has passage {twice[0]} twice.")
    return numbers, np.asarray(starts, dtype=np.int64)[order]


def _documents(marco: Path, passages: _Passages) -> Iterator[tuple[str, str, str]]:
    """Id, title and text in numerical order: `join -a 1 -e '' -o 1.1 2.2 1.2 | sort -n`, so no title is ''."""
    count = len(passages.ids)
    with (
        _mapped(marco / "para.txt") as texts,
        _mapped(marco / "para.title.txt") as titles,
        bar("titled passages", count, "passages") as advance,
    ):
        for low in range(0, count, AT_A_TIME):
            part = slice(low, low + AT_A_TIME)
            columns = (column[part].tolist() for column in (passages.ids, passages.titles, passages.texts))
            for key, title, text in zip(*columns, strict=True):
                yield str(key), "" if title < 0 else _field(titles, title), _field(texts, text)
            advance(len(passages.ids[part]))


@contextmanager
def _mapped(file: Path) -> Iterator[mmap.mmap | bytes]:
    if file.stat().st_size == 0:  # which cannot be mapped
        yield b""
        return
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _field(content: mmap.mmap | bytes, start: int) -> str:
    end = content.find(b"\n", start)
    line = content[start : end if end >= 0 else len(content)]
    return line.rstrip(b"\r").partition(b"\t")[0].decode()  # what stands after another tab is not joined


def first_negatives(triples: Path, most: int) -> Iterator[tuple[str, str]]:
    """Query id and negative of the triples in their order, `most` of each query, repeats included as in the recipes."""
    taken: dict[int, int] = {}
    with bar("negatives", TRIPLES, "triples") as advance:
        for queries, passages in _columns(triples):
            # Where a run of one query begins: the lines of a query stand together, but for the ends of a batch.
            starts = np.flatnonzero(np.diff(queries, prepend=-1))
            for start, end in itertools.pairwise([*starts, len(queries)]):
                query = int(queries[start])
                kept = passages[start : min(end, start + most - taken.get(query, 0))].tolist()
                taken[query] = taken.get(query, 0) + len(kept)
                for passage in kept:
                    yield str(query), str(passage)
            advance(len(queries))


def _columns(triples: Path) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Queries and negatives of a file of three numbers to a line, some thousand lines at a time."""
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
