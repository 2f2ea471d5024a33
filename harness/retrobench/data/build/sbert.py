"""
MS MARCO's passages without titles, with sentence-transformers' hard negatives: RetroMAE's recipe for BEIR.

BM25 and three dense retrievers mined negatives for each training query, and a cross-encoder scored them. A negative is
dropped as a likely answer unless its score is at least `margin` below the lowest positive's. The first `per_system`
remaining negatives of each retriever are written (RetroMAE: examples/retriever/BEIR/download_neg.py).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from retrobench.data.tables import IdPair
from retrobench.data.tokens import TextRow
from retrobench.errors import RetrobenchError

__all__ = ["PUBLISHED", "Sbert"]

# A line is `{"qid", "pos": [{"pid", "ce-score"}], "neg": {system: [{"pid", "ce-score"}]}}`. lightning-ir checks this
# MD5 (data/external_datasets).
NEGATIVES = Remote(
    "msmarco-hard-negatives.jsonl.gz",
    ("https://sbert.net/datasets/msmarco-hard-negatives.jsonl.gz",),
    md5="ecf8cafb10197fd7adf4f68aabd15d84",
)
# The hub's later file of that name has bare ids and more systems. The hub publishes its scores as a pickle, which is
# never loaded, and as a parquet dataset: columns query_id, corpus_id (a list) and score (a list).
HUB_NEGATIVES = Remote(
    "msmarco-hard-negatives-hub.jsonl.gz",
    (
        "https://huggingface.co/datasets/sentence-transformers/msmarco-hard-negatives/resolve/48dd5a87e0d11032ee2cff45d5f859a6083c25ef/msmarco-hard-negatives.jsonl.gz",
    ),
)
HUB_SCORES = ("sentence-transformers/msmarco-scores-ms-marco-MiniLM-L6-v2", "main", "list")

# The systems of the file with scores. RetroMAE and BEIR's train_msmarco_v3 use all four.
SYSTEMS = ("bm25", "msmarco-distilbert-base-tas-b", "msmarco-distilbert-base-v3", "msmarco-MiniLM-L-6-v3")

# As in etc/metadata.json of ir_datasets 0.6.3: msmarco-passage, its train/judged and train.
PUBLISHED = {"passages": 8_841_823, "train queries": 502_939, "train judgements": 532_761}


@dataclass(frozen=True)
class Sbert:
    """
    Builds `msmarco-sbert`: split train, with negatives.

    `margin` is in units of the cross-encoder's logits. None writes mined negatives whatever their scores. A `sample` is
    not compared with the published counts.
    """

    margin: float | None = 3.0
    per_system: int = 5
    sample: bool = False

    def __call__(self, folder: Path) -> str:
        """Build into `folder`, and return a line about the result."""
        return make(folder, self._fill)

    def _fill(self, site: Site) -> str:
        # All downloads come before any work.
        mined_file = _mined_file(site)
        texts = official.queries(official.TRAIN_QUERIES, site)
        qrels = official.qrels(official.TRAIN_QRELS, site)
        passages = official.passages(site)
        scores = None
        if self.margin is not None and not _has_scores(mined_file):
            scores = _Scores.read(site)
        with bar("passages", PUBLISHED["passages"], "passages") as advance:
            counts = {"passages": write_corpus(site, _untitled(passages, advance))}
        judgements = list(qrels)
        judged = {query_id for query_id, _, _ in judgements}
        counts["train judgements"] = write_qrels(site, "train", judgements)
        judged_texts = {query_id: text for query_id, text in texts if query_id in judged}
        counts["train queries"] = write_queries(site, judged_texts)
        if not self.sample:
            check_counts(site, counts, PUBLISHED)
        negatives = write_negatives(site, "train", self._negatives(mined_file, scores, judged))
        if not negatives:
            raise RetrobenchError(f"{mined_file} names no negatives of {', '.join(SYSTEMS)} for a training query.")
        filtering = "unfiltered"
        if self.margin is not None:
            filtering = f"cross-encoder margin {self.margin:g}"
        title = f"MS MARCO passages without titles; sentence-transformers' hard negatives, {filtering}"
        write_description(site, title, rules.rule("msmarco-passage/train"), {})
        return (
            f"{counts['passages']:,} passages without titles; {counts['train queries']:,} train queries; "
            f"{negatives:,} negatives, {filtering}, at most {self.per_system} from each of {len(SYSTEMS)} systems."
        )

    def _negatives(self, mined_file: Path, scores: _Scores | None, judged: set[str]) -> Iterator[IdPair]:
        """Yield query id and passage id of the chosen negatives of each judged query."""
        with bar("negatives", len(judged), "queries") as advance:
            for number, line in enumerate(sources.lines(mined_file), 1):
                try:
                    mined = _Mined.read(line, scores)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    fault = f"{type(error).__name__}: {error}"
                    raise RetrobenchError(
                        f"{mined_file}, line {number}: no negatives mined for a query ({fault})."
                    ) from None
                advance(1)
                query_id = str(mined.query)
                if query_id not in judged:
                    continue
                for passage in mined.negatives(self.margin, self.per_system):
                    yield query_id, str(passage)


@dataclass(frozen=True)
class _Mined:
    """The mining result for one query: positives, each system's passages from the best, and the available scores."""

    query: int
    positives: tuple[int, ...]
    systems: tuple[tuple[int, ...], ...]
    scores: dict[int, float]

    @classmethod
    def read(cls, line: bytes, scores: _Scores | None) -> _Mined:
        """Parse a line, with its own scores unless `scores` are given."""
        row = json.loads(line)
        query = int(row["qid"])
        positives = row["pos"]
        rankings = [items for system, items in row["neg"].items() if system in SYSTEMS]
        query_scores = scores.by_passage(query) if scores else _own_scores([positives, *rankings])
        systems = tuple(map(_passage_ids, rankings))
        return cls(query, _passage_ids(positives), systems, query_scores)

    def negatives(self, margin: float | None, per_system: int) -> list[int]:
        """Return the first `per_system` new passages of each system whose scores are low enough."""
        ceiling = math.inf
        if margin is not None:
            positive_scores = [self.scores[passage] for passage in self.positives if passage in self.scores]
            ceiling = min(positive_scores, default=-math.inf) - margin
        chosen: dict[int, None] = {}  # a set in the order of insertion
        for passages in self.systems:
            most = len(chosen) + per_system
            for passage in passages:
                if len(chosen) == most:
                    break
                # A passage without a score may be an answer.
                score = self.scores.get(passage, math.inf)
                if passage not in self.positives and score <= ceiling:
                    chosen[passage] = None
        return list(chosen)


def _passage_ids(items: Iterable[Any]) -> tuple[int, ...]:
    """Return the passage ids of items that are ids or records with a `pid`."""
    ids = []
    for item in items:
        identifier = item["pid"] if isinstance(item, dict) else item
        ids.append(int(identifier))
    return tuple(ids)


def _own_scores(rankings: Iterable[Iterable[Any]]) -> dict[int, float]:
    """Return passage -> score from the items that are records with a `ce-score`."""
    scores = {}
    for items in rankings:
        for item in items:
            if isinstance(item, dict):
                scores[int(item["pid"])] = item["ce-score"]
    return scores


@dataclass(frozen=True)
class _Scores:
    """The cross-encoder's 160 million scores, memory-mapped, with the rows of each query."""

    passages: NDArray[np.int32]
    scores: NDArray[np.float64]
    rows: dict[int, slice]

    @classmethod
    def read(cls, site: Site) -> _Scores:
        """Read scores.tsv among the sources (query-id, corpus-id, score), else the hub's parquet files."""
        by_hand = site.sources / "scores.tsv"
        passages_file = site.scratch / "passages"
        scores_file = site.scratch / "scores"
        rows: dict[int, slice] = {}
        count = 0
        with passages_file.open("wb") as passages_stream, scores_file.open("wb") as scores_stream:
            for query, passages, scores in _score_groups(by_hand, site.sources / "scores"):
                if query in rows:
                    raise RetrobenchError(f"The scores of query {query} do not stand together; sort {by_hand}.")
                passages.astype(np.int32).tofile(passages_stream)
                scores.astype(np.float64).tofile(scores_stream)
                rows[query] = slice(count, count + len(passages))
                count += len(passages)
        if not count:
            raise RetrobenchError(f"No scores in {by_hand}: query-id, corpus-id and score with tabs are expected.")
        all_passages = np.memmap(passages_file, np.int32, "r")
        all_scores = np.memmap(scores_file, np.float64, "r")
        return cls(all_passages, all_scores, rows)

    def by_passage(self, query: int) -> dict[int, float]:
        """Return passage -> score for a query."""
        rows = self.rows.get(query, slice(0))
        passages = self.passages[rows].tolist()
        scores = self.scores[rows].tolist()
        return dict(zip(passages, scores, strict=True))


Group = tuple[int, NDArray[np.generic], NDArray[np.generic]]  # a query, its passages, their scores


def _score_groups(by_hand: Path, folder: Path) -> Iterator[Group]:
    if by_hand.is_file():
        return _groups_of_tsv(by_hand)
    return _groups_of_parquet(folder)


def _groups_of_tsv(file: Path) -> Iterator[Group]:
    lines = sources.lines(file)
    rows = (line.split(b"\t") for line in lines if line[:1].isdigit())  # skips a header
    for query, group in itertools.groupby(rows, key=lambda row: row[0]):
        passages = []
        scores = []
        try:
            for _, passage, score in group:
                passages.append(int(passage))
                scores.append(float(score))
        except ValueError:
            raise RetrobenchError(
                f"{file}, query {query.decode()}: a query id, a passage id and a score with tabs are expected."
            ) from None
        yield int(query), np.array(passages), np.array(scores)


def _groups_of_parquet(folder: Path) -> Iterator[Group]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for file in sources.complete_parquet(folder) or sources.download_parquet(*HUB_SCORES, folder):
        for batch in pq.ParquetFile(file).iter_batches(columns=["query_id", "corpus_id", "score"]):
            queries = pc.cast(batch.column("query_id"), pa.int64()).to_pylist()
            passages = pc.cast(batch.column("corpus_id").flatten(), pa.int32()).to_numpy()
            scores = pc.cast(batch.column("score").flatten(), pa.float64()).to_numpy()
            lengths = pc.list_value_length(batch.column("corpus_id")).to_pylist()
            start = 0
            for query, length in zip(queries, lengths, strict=True):
                rows = slice(start, start + length)
                yield query, passages[rows], scores[rows]
                start += length


def _mined_file(site: Site) -> Path:
    """Return the file with scores if it can be downloaded, else the hub's. A hub file among the sources comes first."""
    hub_file = site.sources / HUB_NEGATIVES.name
    if hub_file.is_file():
        return hub_file
    try:
        return sources.download(NEGATIVES, site.sources)
    except RetrobenchError as error:
        try:
            return sources.download(HUB_NEGATIVES, site.sources)
        except RetrobenchError:
            raise error from None


def _has_scores(mined_file: Path) -> bool:
    first_line = next(sources.lines(mined_file), b"{}")
    row = json.loads(first_line)
    return any(isinstance(item, dict) for item in row.get("pos", []))


def _untitled(passages: Iterable[official.IdText], advance: Callable[[int], None]) -> Iterator[TextRow]:
    for passage_id, text in passages:
        yield passage_id, "", text
        advance(1)
