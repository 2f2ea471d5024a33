"""
MS MARCO as published, without titles, with the hard negatives of sentence-transformers: RetroMAE's BEIR recipe.

Each training query has negatives mined by BM25 and three dense retrievers, each with the score a cross-encoder gives
it. A negative whose score is not at least `margin` below that of the lowest positive is likely an answer and dropped;
of the rest the first `per_system` of each retriever are kept (RetroMAE: examples/retriever/BEIR/download_neg.py).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
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

__all__ = ["PUBLISHED", "Sbert"]

# Holds the scores: `{"qid", "pos": [{"pid", "ce-score"}], "neg": {system: [{"pid", "ce-score"}]}}`. The MD5 is the one
# that lightning-ir checks (data/external_datasets).
NEGATIVES = Remote(
    "msmarco-hard-negatives.jsonl.gz",
    ("https://sbert.net/datasets/msmarco-hard-negatives.jsonl.gz",),
    md5="ecf8cafb10197fd7adf4f68aabd15d84",
)
# The hub's later file of that name has bare ids and more systems. Its scores lie beside it as a pickle, which is never
# loaded, and in a dataset of their own as parquet: columns query_id, corpus_id (a list) and score (a list).
HUB_NEGATIVES = Remote(
    "msmarco-hard-negatives-hub.jsonl.gz",
    (
        "https://huggingface.co/datasets/sentence-transformers/msmarco-hard-negatives/resolve/48dd5a87e0d11032ee2cff45d5f859a6083c25ef/msmarco-hard-negatives.jsonl.gz",
    ),
)
HUB_SCORES = ("sentence-transformers/msmarco-scores-ms-marco-MiniLM-L6-v2", "main", "list")

# Those of the file with scores, which RetroMAE and BEIR's train_msmarco_v3 take all of.
SYSTEMS = ("bm25", "msmarco-distilbert-base-tas-b", "msmarco-distilbert-base-v3", "msmarco-MiniLM-L-6-v3")

# As in etc/metadata.json of ir_datasets 0.6.3: msmarco-passage, its train/judged and train.
PUBLISHED = {"passages": 8_841_823, "train queries": 502_939, "train judgements": 532_761}


@dataclass(frozen=True)
class Sbert:
    """
    Builds `msmarco-sbert`: split train, with negatives.

    `margin` is in units of the cross-encoder's logits; None keeps what was mined whatever its score. A `sample` is
    not held to the published counts.
    """

    margin: float | None = 3.0
    per_system: int = 5
    sample: bool = False

    def __call__(self, folder: Path) -> str:
        """Build into `folder` and say what was made."""
        return make(folder, self._fill)

    def _fill(self, site: Site) -> str:
        mined = _mined(site)  # all downloads come before any work
        texts, qrels = official.queries(official.TRAIN_QUERIES, site), official.qrels(official.TRAIN_QRELS, site)
        untitled = official.passages(site)
        scores = None if self.margin is None or _has_scores(mined) else _Scores.read(site)
        with bar("passages", PUBLISHED["passages"], "passages") as advance:
            counts = {"passages": write_corpus(site, _untitled(untitled, advance))}
        judgements = list(qrels)
        judged = {query for query, _, _ in judgements}
        counts["train judgements"] = write_qrels(site, "train", judgements)
        counts["train queries"] = write_queries(site, {key: text for key, text in texts if key in judged})
        if not self.sample:
            expect(site, counts, PUBLISHED)
        negatives = write_negatives(site, "train", self._chosen(mined, scores, judged))
        if not negatives:
            raise RetrobenchError(f"{mined} names no negatives of {', '.join(SYSTEMS)} for a training query.")
        how = "unfiltered" if self.margin is None else f"cross-encoder margin {self.margin:g}"
        title = f"MS MARCO passages without titles; sentence-transformers' hard negatives, {how}"
        write_description(site, title, rules.rule("msmarco-passage/train"), {})
        return (
            f"{counts['passages']:,} passages without titles; {counts['train queries']:,} train queries; "
            f"{negatives:,} negatives, {how}, at most {self.per_system} from each of {len(SYSTEMS)} systems."
        )

    def _chosen(self, mined: Path, scores: _Scores | None, judged: set[str]) -> Iterator[tuple[str, str]]:
        with bar("negatives", len(judged), "queries") as advance:
            for number, line in enumerate(sources.lines(mined), 1):
                try:
                    found = _Mined.read(line, scores)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    fault = f"{type(error).__name__}: {error}"
                    raise RetrobenchError(
                        f"{mined}, line {number}: not what was mined for a query ({fault})."
                    ) from None
                advance(1)
                if str(found.query) in judged:
                    for passage in found.negatives(self.margin, self.per_system):
                        yield str(found.query), str(passage)


@dataclass(frozen=True)
class _Mined:
    """What was mined for a query: its positives, each system's passages from the best, and scores as far as known."""

    query: int
    positives: tuple[int, ...]
    systems: tuple[tuple[int, ...], ...]
    scores: dict[int, float]

    @classmethod
    def read(cls, line: bytes, scores: _Scores | None) -> _Mined:
        row = json.loads(line)
        query, listed = int(row["qid"]), [row["pos"], *(row["neg"][name] for name in row["neg"] if name in SYSTEMS)]
        if scores is None:
            known = {int(item["pid"]): item["ce-score"] for items in listed for item in items if isinstance(item, dict)}
        else:
            known = scores.of(query)
        ids = [tuple(int(item["pid"] if isinstance(item, dict) else item) for item in items) for items in listed]
        return cls(query, ids[0], tuple(ids[1:]), known)

    def negatives(self, margin: float | None, most: int) -> list[int]:
        """The first `most` of each system that no system before had and that score low enough."""
        lowest = min((self.scores[key] for key in self.positives if key in self.scores), default=-math.inf)
        ceiling = math.inf if margin is None else lowest - margin
        chosen: dict[int, None] = {}
        for passages in self.systems:
            fresh = (key for key in passages if key not in chosen and key not in self.positives)
            # Without a score nothing speaks against its being an answer.
            low = [key for key in fresh if margin is None or self.scores.get(key, math.inf) <= ceiling]
            chosen |= dict.fromkeys(list(dict.fromkeys(low))[:most])
        return list(chosen)


@dataclass(frozen=True)
class _Scores:
    """The cross-encoder's scores, 160 million of them: left on disk, with the place of each query's."""

    passages: NDArray[np.int32]
    scores: NDArray[np.float64]
    places: dict[int, tuple[int, int]]

    @classmethod
    def read(cls, site: Site) -> _Scores:
        """From scores.tsv among the sources (query-id, corpus-id, score), else from the hub's parquet files."""
        by_hand = site.sources / "scores.tsv"
        groups = _from_text(by_hand) if by_hand.is_file() else _from_parquet(site.sources / "scores")
        passages, scores, places, count = site.scratch / "passages", site.scratch / "scores", {}, 0
        with passages.open("wb") as first, scores.open("wb") as second:
            for query, keys, values in groups:
                if query in places:
                    raise RetrobenchError(f"The scores of query {query} do not stand together; sort {by_hand}.")
                keys.astype(np.int32).tofile(first)
                values.astype(np.float64).tofile(second)
                places[query] = count, count + len(keys)
                count += len(keys)
        if not count:
            raise RetrobenchError(f"No scores in {by_hand}: query-id, corpus-id and score with tabs are expected.")
        return cls(np.memmap(passages, np.int32, "r"), np.memmap(scores, np.float64, "r"), places)

    def of(self, query: int) -> dict[int, float]:
        """Passage -> score, for a query."""
        part = slice(*self.places.get(query, (0, 0)))
        return dict(zip(self.passages[part].tolist(), self.scores[part].tolist(), strict=True))


Group = tuple[int, NDArray[np.generic], NDArray[np.generic]]  # a query, its passages, their scores


def _from_text(file: Path) -> Iterator[Group]:
    rows = (line.split(b"\t") for line in sources.lines(file) if line[:1].isdigit())  # a header is passed over
    for query, group in itertools.groupby(rows, key=lambda row: row[0]):
        try:
            keys, values = zip(*((int(key), float(value)) for _, key, value in group), strict=True)
        except ValueError:
            raise RetrobenchError(
                f"{file}, query {query.decode()}: a query id, a passage id and a score with tabs."
            ) from None
        yield int(query), np.array(keys), np.array(values)


def _from_parquet(folder: Path) -> Iterator[Group]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for file in sources.at_hand(folder) or sources.fetch_parquet(*HUB_SCORES, folder):
        for batch in pq.ParquetFile(file).iter_batches(columns=["query_id", "corpus_id", "score"]):
            queries = pc.cast(batch.column("query_id"), pa.int64()).to_pylist()
            keys = pc.cast(batch.column("corpus_id").flatten(), pa.int32()).to_numpy()
            values = pc.cast(batch.column("score").flatten(), pa.float64()).to_numpy()
            ends = np.cumsum(pc.list_value_length(batch.column("corpus_id")).to_numpy())
            for query, low, high in zip(queries, [0, *ends[:-1]], ends, strict=True):
                yield query, keys[low:high], values[low:high]


def _mined(site: Site) -> Path:
    """The file with scores if it can be had, else the hub's."""
    if (site.sources / HUB_NEGATIVES.name).is_file():
        return site.sources / HUB_NEGATIVES.name
    try:
        return sources.fetch(NEGATIVES, site.sources)
    except RetrobenchError as first:
        try:
            return sources.fetch(HUB_NEGATIVES, site.sources)
        except RetrobenchError:
            raise first from None


def _has_scores(mined: Path) -> bool:
    row = json.loads(next(sources.lines(mined), b"{}"))
    return any(isinstance(item, dict) for item in row.get("pos", []))


def _untitled(passages: Iterable[tuple[str, str]], advance: Callable[[int], None]) -> Iterator[tuple[str, str, str]]:
    for key, text in passages:
        yield key, "", text
        advance(1)
