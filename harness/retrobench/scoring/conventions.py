"""
The means of a run by BEIR's own `EvaluateRetrieval`, for a check of retrobench's conventions.

It shares trec_eval's code for nDCG, MAP and Recall, and has code of its own for MRR and Success. So it checks the gain
of nDCG, the mean over queries, the order of ties and the cutoffs. It does not check:

* binary measures with a relevance level above 1, which it lacks
* its own removal of own documents, which is off here: a dataset's rule decides
* digits behind the fifth decimal, to which it rounds
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retrobench.scoring.measures import Measure, deepest, parse
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.trec import Run

__all__ = ["BEIR_ROUNDING", "beir_means"]

BEIR_ROUNDING = 5e-6 + 1e-9  # the largest difference of a value from its 5 decimals
BLOCK = 1000  # queries whose hits are Python objects at a time
BY_TREC_EVAL = {"nDCG": "NDCG", "MAP": "MAP", "Recall": "Recall"}  # our name -> BEIR's
BY_BEIR = {"MRR": ("mrr", "MRR"), "RR": ("mrr", "MRR"), "Success": ("accuracy", "Accuracy")}

Grades = Mapping[str, Mapping[str, int]]


def beir_means(run: Run, ranking: Ranking, grades: Grades, names: Sequence[str], level: int) -> dict[str, float]:
    """Return the mean over all judged queries of each measure that BEIR has, by the names given.

    `ranking` indexes the documents of `run`. BEIR sorts the hits again, by their scores.
    """
    measures = {name: parse(name) for name in names}
    known = (*BY_TREC_EVAL, *BY_BEIR)
    measures = {name: measure for name, measure in measures.items() if measure.kind in known}
    measures = {name: measure for name, measure in measures.items() if measure.least_grade(level) == 1}
    if not measures:
        return {}
    depth = min(deepest(list(measures)) or ranking.rows.shape[1], ranking.rows.shape[1])
    row_of_query = {query: row for row, query in enumerate(run.queries)}
    sums = dict.fromkeys(measures, 0.0)
    judged_queries = list(grades)
    for start in range(0, len(judged_queries), BLOCK):
        block = judged_queries[start : start + BLOCK]
        results: dict[str, dict[str, float]] = {}
        for query in block:
            row = row_of_query.get(query)
            results[query] = {} if row is None else _hits(run, ranking, row, depth)
        qrels = {}
        for query in block:  # grades below 0 count as 0; below -1 they can end the process in trec_eval's code
            qrels[query] = {document: max(grade, 0) for document, grade in grades[query].items()}
        for name, mean in _evaluate(qrels, results, measures, depth).items():
            sums[name] += mean * len(block)
    return {name: total / len(judged_queries) for name, total in sums.items()}


def _hits(run: Run, ranking: Ranking, row: int, depth: int) -> dict[str, float]:
    """Return document -> score of a query's first hits, in ranked order."""
    rows = ranking.rows[row, :depth]
    rows = rows[rows >= 0]
    documents = run.documents.take(rows).to_pylist()
    return dict(zip(documents, ranking.scores[row, : len(rows)].tolist(), strict=True))


def _evaluate(
    qrels: dict[str, dict[str, int]],
    results: dict[str, dict[str, float]],
    measures: Mapping[str, Measure],
    depth: int,
) -> dict[str, float]:
    """Return BEIR's mean of each measure over the queries of `results`, which are those of `qrels`."""
    from beir.retrieval.evaluation import EvaluateRetrieval

    cutoffs = {name: measure.cutoff or depth for name, measure in measures.items()}
    distinct = sorted(set(cutoffs.values()))
    means: dict[str, float] = {}
    for values in EvaluateRetrieval.evaluate(qrels, results, distinct, ignore_identical_ids=False):
        means |= values
    for metric in sorted({BY_BEIR[measure.kind][0] for measure in measures.values() if measure.kind in BY_BEIR}):
        means |= EvaluateRetrieval.evaluate_custom(qrels, results, distinct, metric)
    by_name = {}
    for name, measure in measures.items():
        beir_name = BY_TREC_EVAL.get(measure.kind) or BY_BEIR[measure.kind][1]
        by_name[name] = float(means[f"{beir_name}@{cutoffs[name]}"])
    return by_name
