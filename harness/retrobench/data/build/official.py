"""
MS MARCO's passages, queries, judgements and triples, and TREC's topics and judgements, as published.

ir_datasets downloads and verifies them in its own home. A file placed by hand among the sources, under its published
name, is read instead: plain, gzipped or still in its archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrobench.data import catalogue
from retrobench.data.build import sources
from retrobench.data.build.writing import Site
from retrobench.data.tables import Judgement
from retrobench.errors import RetrobenchError

__all__ = [
    "DL19",
    "DL20",
    "TRAIN_QRELS",
    "TRAIN_QUERIES",
    "IdText",
    "Official",
    "Topics",
    "passages",
    "qrels",
    "queries",
    "read_judgements",
    "read_texts",
    "triples",
]

MSMARCO = "https://msmarco.z22.web.core.windows.net/msmarcoranking"
TREC = "https://trec.nist.gov/data/deep"

IdText = tuple[str, str]  # id and text of a query or passage


@dataclass(frozen=True)
class Official:
    """A published file, its dataset in ir_datasets, and its name within its archive, empty where it is no archive."""

    url: str
    dataset: str
    member: str = ""

    def by_hand(self, site: Site) -> Path | None:
        """Return the file among the sources, unpacked if it lies in an archive; None if it is not among them."""
        published_name = self.url.rpartition("/")[2]
        plain_name = self.member or published_name.removesuffix(".gz")
        for name in (plain_name, f"{plain_name}.gz"):
            if (site.sources / name).is_file():
                return site.sources / name
        archive = site.sources / published_name
        if not self.member or not archive.is_file():
            return None
        sources.unpack(archive, [self.member], site.scratch)
        return site.scratch / self.member


@dataclass(frozen=True)
class Topics:
    """The queries and judgements of a TREC track."""

    queries: Official
    qrels: Official


PASSAGES = Official(f"{MSMARCO}/collectionandqueries.tar.gz", "msmarco-passage", "collection.tsv")
TRAIN_QUERIES = Official(f"{MSMARCO}/queries.tar.gz", "msmarco-passage/train", "queries.train.tsv")
TRAIN_QRELS = Official(f"{MSMARCO}/qrels.train.tsv", "msmarco-passage/train")
TRIPLES = Official(f"{MSMARCO}/qidpidtriples.train.full.2.tsv.gz", "msmarco-passage/train/triples-v2")
DL19 = Topics(
    Official(f"{MSMARCO}/msmarco-test2019-queries.tsv.gz", "msmarco-passage/trec-dl-2019"),
    Official(f"{TREC}/2019qrels-pass.txt", "msmarco-passage/trec-dl-2019"),
)
DL20 = Topics(
    Official(f"{MSMARCO}/msmarco-test2020-queries.tsv.gz", "msmarco-passage/trec-dl-2020"),
    Official(f"{TREC}/2020qrels-pass.txt", "msmarco-passage/trec-dl-2020"),
)


def passages(site: Site) -> Iterator[IdText]:
    """Return id and text of each passage. The published file's broken encoding is mended as ir_datasets mends it."""
    file = PASSAGES.by_hand(site)
    if file is None:
        rows = catalogue.reach(PASSAGES.dataset, "docs").docs_iter()
        return ((row.doc_id, row.text) for row in rows)
    from ir_datasets.datasets.msmarco_passage import FixEncoding
    from ir_datasets.util import GzipExtract, LocalDownload

    source = LocalDownload(file)
    if file.suffix == ".gz":
        source = GzipExtract(source)
    return _tabbed_pairs(file, (line.rstrip(b"\r\n") for line in FixEncoding(source)))


def queries(official: Official, site: Site) -> Iterator[IdText]:
    """Return id and text of each query."""
    file = official.by_hand(site)
    if file is None:
        rows = catalogue.reach(official.dataset, "queries").queries_iter()
        return ((row.query_id, row.text) for row in rows)
    return read_texts(file)


def qrels(official: Official, site: Site) -> Iterator[Judgement]:
    """Return query id, passage id and grade of each judgement."""
    file = official.by_hand(site)
    if file is None:
        rows = catalogue.reach(official.dataset, "qrels").qrels_iter()
        return ((row.query_id, row.doc_id, row.relevance) for row in rows)
    return read_judgements(file)


def triples(site: Site) -> Path:
    """Return the file of training triples: query id, id of a relevant passage, id of a passage that is not.

    It has 397,768,673 lines, grouped by query.
    """
    file = TRIPLES.by_hand(site)
    if file is None:
        handler = catalogue.reach(TRIPLES.dataset, "docpairs").docpairs_handler()
        file = Path(handler.docpairs_path())
    return file


def read_judgements(file: Path) -> Iterator[Judgement]:
    """Yield query id, passage id and grade of each line: TREC's four columns, or two columns that mean grade 1."""
    for number, line in enumerate(sources.lines(file), 1):
        row = line.decode().split()
        if len(row) == 2:
            yield row[0], row[1], 1
        elif len(row) == 4 and row[3].isdecimal():
            yield row[0], row[2], int(row[3])
        else:
            raise RetrobenchError(f"{file}, line {number}: a judgement in two or four columns was expected, not {row}.")


def read_texts(file: Path) -> Iterator[IdText]:
    """Return id and text of each line, with a tab between them."""
    return _tabbed_pairs(file, sources.lines(file))


def _tabbed_pairs(file: Path, lines: Iterator[bytes]) -> Iterator[IdText]:
    for number, line in enumerate(lines, 1):
        identifier, tab, text = line.decode().partition("\t")
        if not tab:
            raise RetrobenchError(f"{file}, line {number}: an id, a tab and a text were expected.")
        yield identifier, text
