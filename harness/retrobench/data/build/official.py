"""
MS MARCO's passages, queries, judgements and triples, and TREC's: from ir_datasets, or from files put there by hand.

ir_datasets downloads, verifies and keeps them in its own home. A file among the sources, under the name it is
published by, is read in its place, plain, gzipped or still in its archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrobench.data import catalogue
from retrobench.data.build import sources
from retrobench.data.build.writing import Site
from retrobench.errors import RetrobenchError

__all__ = [
    "DL19",
    "DL20",
    "TRAIN_QRELS",
    "TRAIN_QUERIES",
    "Official",
    "Topics",
    "judged",
    "passages",
    "qrels",
    "queries",
    "texts",
    "triples",
]

MSMARCO = "https://msmarco.z22.web.core.windows.net/msmarcoranking"
TREC = "https://trec.nist.gov/data/deep"


@dataclass(frozen=True)
class Official:
    """A published file, the dataset of ir_datasets that it is part of, and which member of an archive it is."""

    url: str
    dataset: str
    member: str = ""

    def by_hand(self, site: Site) -> Path | None:
        """The file among the sources, unpacked where it lies in an archive."""
        archive = self.url.rpartition("/")[2]
        plain = self.member or archive.removesuffix(".gz")
        for name in (plain, f"{plain}.gz"):
            if (site.sources / name).is_file():
                return site.sources / name
        if not self.member or not (site.sources / archive).is_file():
            return None
        sources.unpack(site.sources / archive, [self.member], site.scratch)
        return site.scratch / self.member


@dataclass(frozen=True)
class Topics:
    """The queries and judgements of one TREC track."""

    queries: Official
    qrels: Official


PASSAGES = Official(f"{MSMARCO}/collectionandqueries.tar.gz", "msmarco-passage", "collection.tsv")
TRAIN_QUERIES = Official(f"{MSMARCO}/queries.tar.gz", "msmarco-passage/train", "queries.train.tsv")
TRAIN_QRELS = Official(f"{MSMARCO}/qrels.train.tsv", "msmarco-passage/train")
TRIPLES = Official(f"{MSMARCO}/qidpidtriples.train.full.2.tsv.gz", "msmarco-passage/train/triples-v2")
DL19, DL20 = (
    Topics(
        Official(f"{MSMARCO}/msmarco-test{year}-queries.tsv.gz", f"msmarco-passage/trec-dl-{year}"),
        Official(f"{TREC}/{year}qrels-pass.txt", f"msmarco-passage/trec-dl-{year}"),
    )
    for year in (2019, 2020)
)


def passages(site: Site) -> Iterator[tuple[str, str]]:
    """Id and text of each passage, the broken encoding of the published file mended as ir_datasets does."""
    file = PASSAGES.by_hand(site)
    if file is None:
        return ((row.doc_id, row.text) for row in catalogue.reach(PASSAGES.dataset, "docs").docs_iter())
    from ir_datasets.datasets.msmarco_passage import FixEncoding
    from ir_datasets.util import GzipExtract, LocalDownload

    source = LocalDownload(file)
    mended = FixEncoding(GzipExtract(source) if file.suffix == ".gz" else source)
    return _pairs(file, (line.rstrip(b"\r\n") for line in mended))


def queries(official: Official, site: Site) -> Iterator[tuple[str, str]]:
    """Id and text of each query."""
    file = official.by_hand(site)
    if file is None:
        return ((row.query_id, row.text) for row in catalogue.reach(official.dataset, "queries").queries_iter())
    return texts(file)


def qrels(official: Official, site: Site) -> Iterator[tuple[str, str, int]]:
    """Query id, passage id and grade of each judgement."""
    file = official.by_hand(site)
    if file is None:
        rows = catalogue.reach(official.dataset, "qrels").qrels_iter()
        return ((row.query_id, row.doc_id, row.relevance) for row in rows)
    return judged(file)


def triples(site: Site) -> Path:
    """The file of query id, a passage that answers it and one that does not: 397,768,673 lines, grouped by query."""
    by_hand = TRIPLES.by_hand(site)
    return by_hand or Path(catalogue.reach(TRIPLES.dataset, "docpairs").docpairs_handler().docpairs_path())


def judged(file: Path) -> Iterator[tuple[str, str, int]]:
    """Query id, passage id and grade of each line, in TREC's four columns or in two where every grade is 1."""
    for number, line in enumerate(sources.lines(file), 1):
        row = line.decode().split()
        if len(row) == 2:
            yield row[0], row[1], 1
        elif len(row) == 4 and row[3].isdecimal():
            yield row[0], row[2], int(row[3])
        else:
            raise RetrobenchError(f"{file}, line {number}: a judgement in two or four columns was expected, not {row}.")


def texts(file: Path) -> Iterator[tuple[str, str]]:
    """Id and text of each line, with a tab between them."""
    return _pairs(file, sources.lines(file))


def _pairs(file: Path, rows: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(rows, 1):
        key, tab, text = line.decode().partition("\t")
        if not tab:
            raise RetrobenchError(f"{file}, line {number}: an id, a tab and a text were expected.")
        yield key, text
