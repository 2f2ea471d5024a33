"""
How near a run is to the authors' run: their rankings, their values by query, and the effect of a pair of systems.

* root_mean_square_error       of the values by query
* kendall_tau_union            of two rankings, over the union of their documents
* rank_biased_overlap          of two rankings of any length, extrapolated
* effect_ratio                 our improvement over a baseline, as a share of the authors'
* delta_relative_improvement   the authors' relative improvement minus ours
* Rankings, compare_rankings   the rankings of a run file, and the agreement of two

Breuer et al., How to Measure the Reproducibility of System-oriented IR Experiments, SIGIR 2020.
Webber et al., A Similarity Measure for Indefinite Rankings, TOIS 28 (2010).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrobench.data import Exclusions
from retrobench.scoring import trec
from retrobench.scoring.ranking import Ranking

__all__ = [
    "DEPTH",
    "PERSISTENCE",
    "RankingAgreement",
    "Rankings",
    "Values",
    "compare_rankings",
    "delta_relative_improvement",
    "effect_ratio",
    "kendall_tau_union",
    "rank_biased_overlap",
    "root_mean_square_error",
]

DEPTH = 1000  # documents compared per query
PERSISTENCE = 0.8  # p of rank-biased overlap: the first 10 ranks weigh 97 %

Values = Mapping[str, float]
"""Query -> value of a measure."""


@dataclass(frozen=True)
class Rankings(Mapping[str, list[str]]):
    """The rankings of a run file: query -> documents in ranked order. Ids become Python strings one query at a time."""

    run: trec.Run
    ranking: Ranking
    positions: Mapping[str, int]  # of the queries

    @classmethod
    def read(cls, file: Path, exclusions: Exclusions | None = None) -> Rankings:
        """Read a run file, without the documents that `exclusions` name."""
        run = trec.read_run(file)
        return cls(run, run.rank(exclusions), {query: position for position, query in enumerate(run.queries)})

    def __getitem__(self, query: str) -> list[str]:
        rows = self.ranking.rows[self.positions[query]]
        documents: list[str] = self.run.documents.take(rows[rows >= 0]).to_pylist()
        return documents

    def __iter__(self) -> Iterator[str]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class RankingAgreement:
    """The means of both measures of rankings. A query in one run alone is left out; None: no query has the measure."""

    tau: float | None
    overlap: float | None
    queries: int  # compared
    left_out: int


def root_mean_square_error(theirs: Values, ours: Values) -> float:
    """Return the root of the mean squared difference by query; both have the same queries."""
    squares = [(theirs[query] - ours[query]) ** 2 for query in theirs]
    return math.sqrt(statistics.fmean(squares))


def effect_ratio(theirs: Values, their_baseline: Values, ours: Values, our_baseline: Values) -> float | None:
    """Return our mean improvement over a baseline divided by the authors'; None where theirs is 0."""
    their_effect = _mean(theirs) - _mean(their_baseline)
    if their_effect == 0:
        return None
    return (_mean(ours) - _mean(our_baseline)) / their_effect


def delta_relative_improvement(
    theirs: Values, their_baseline: Values, ours: Values, our_baseline: Values
) -> float | None:
    """Return the authors' relative improvement over a baseline minus ours; None where a baseline's mean is 0."""
    if _mean(their_baseline) == 0 or _mean(our_baseline) == 0:
        return None
    return _mean(theirs) / _mean(their_baseline) - _mean(ours) / _mean(our_baseline)


def _mean(values: Values) -> float:
    return statistics.fmean(values.values())


def kendall_tau_union(theirs: Sequence[str], ours: Sequence[str]) -> float | None:
    """Return Kendall's tau of two rankings over the union of their documents; None for fewer than two ranks.

    The union is numbered in the authors' order, with documents that only we rank behind. Each ranking is the sequence
    of its documents' numbers, and the longer one is cut. For rankings of equal documents this is Kendall's tau.
    (repro_eval numbers the union by document id, so its value changes when documents are renamed.)
    """
    from scipy.stats import kendalltau

    length = min(len(theirs), len(ours))
    if length < 2:
        return None
    numbers: dict[str, int] = {}
    for document in (*theirs[:length], *ours[:length]):
        numbers.setdefault(document, len(numbers))
    our_numbers = [numbers[document] for document in ours[:length]]
    return float(kendalltau(range(length), our_numbers).statistic)


def rank_biased_overlap(theirs: Sequence[str], ours: Sequence[str], persistence: float = PERSISTENCE) -> float:
    """Return the extrapolated rank-biased overlap, RBO_ext of Webber et al., equation 32; of empty rankings, 1."""
    shorter, longer = sorted((theirs, ours), key=len)
    if not shorter:
        return float(not longer)
    overlaps = _overlaps(shorter, longer)
    short, long = len(shorter), len(longer)
    shared_short, shared_long = overlaps[short - 1], overlaps[-1]
    total = 0.0
    for depth, shared in enumerate(overlaps, 1):
        total += shared / depth * persistence**depth
        if depth > short:
            # The shorter ranking is taken to go on with as many shared documents as it had.
            total += shared_short * (depth - short) / (short * depth) * persistence**depth
    tail = ((shared_long - shared_short) / long + shared_short / short) * persistence**long
    return (1 - persistence) / persistence * total + tail


def _overlaps(shorter: Sequence[str], longer: Sequence[str]) -> list[int]:
    """Return the number of documents that both rankings have down to each depth of the longer one."""
    overlaps = []
    seen: set[str] = set()
    shared = 0
    for depth, document in enumerate(longer):
        for candidate in (document, *shorter[depth : depth + 1]):
            if candidate in seen:
                shared += 1
            seen.add(candidate)
        overlaps.append(shared)
    return overlaps


def compare_rankings(theirs: Mapping[str, Sequence[str]], ours: Mapping[str, Sequence[str]]) -> RankingAgreement:
    """Return the agreement of two runs, query -> documents in ranked order, down to `DEPTH`."""
    taus = []
    overlaps = []
    shared_queries = [query for query in theirs if query in ours]
    for query in shared_queries:
        their_documents, our_documents = theirs[query][:DEPTH], ours[query][:DEPTH]
        overlaps.append(rank_biased_overlap(their_documents, our_documents))
        tau = kendall_tau_union(their_documents, our_documents)
        if tau is not None:
            taus.append(tau)
    left_out = len(theirs.keys() ^ ours.keys())
    return RankingAgreement(_mean_of(taus), _mean_of(overlaps), len(shared_queries), left_out)


def _mean_of(numbers: Sequence[float]) -> float | None:
    return statistics.fmean(numbers) if numbers else None
