"""
Compute measures of a ranking by ranx, and check them against trec_eval's own code.

* canonical(name)   the canonical spelling of a measure
* parse(name)       a measure by kind, cutoff and relevance level
* measure(...)      every query's values
* check(...)        raises where the two engines differ

For binary measures a grade is relevant from the relevance level on. nDCG uses the grades, with linear gain. Judged@k is
ir_measures' own measure, which neither engine has: the share of the first k hits with a judgement of any grade.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retrobench.data import LARGEST_GRADE
from retrobench.errors import RetrobenchError, quote, unknown
from retrobench.scoring.judged import judged_documents

__all__ = ["Measure", "canonical", "check", "deepest", "measure", "parse"]


_RANX = {"nDCG": "ndcg", "MRR": "mrr", "RR": "mrr", "Recall": "recall", "Success": "hit_rate", "MAP": "map"}
_TREC = {
    "nDCG": "ndcg_cut",
    "MRR": "recip_rank",
    "RR": "recip_rank",
    "Recall": "recall",
    "Success": "success",
    "MAP": "map",
}
_TREC_WITH_CUTOFF = ("ndcg_cut", "recall", "success")
_ALIASES = {"AP": "MAP", "R": "Recall"}  # ir_measures' names
_CUTOFF_OPTIONAL = ("RR", "MAP")  # without a cutoff they read the whole ranking
_JUDGED = "Judged"
_KINDS = (*_RANX, _JUDGED)
_CHOICES = (*(f"{kind}@10" for kind in _KINDS), *_CUTOFF_OPTIONAL, "RR(rel=2)@10")
_NAME = re.compile(r"(?P<kind>[A-Za-z]+)(?:\((?P<option>[^()]*)\))?(?:@(?P<cutoff>[1-9][0-9]*))?")
_LEVEL = re.compile(r"rel=(?P<level>[1-9][0-9]*)")
_LINEAR_GAIN = re.compile(r"dcg=(['\"])log2\1")
LARGEST_CUTOFF = 1_000_000  # no run is longer, and the engines reserve memory by it
_TOLERANCE = 1e-6
_BLOCK = 1000  # queries whose hits are Python objects at a time

# Hits and judgements are indices into the judged documents, with these numbers beside them.
_LIST_END = -1
_NOT_JUDGED = -2
_NO_JUDGEMENT = -3.0  # fills short lists of judgements up and equals no hit


class Measure(NamedTuple):
    """A measure, apart from the run and its relevance level."""

    kind: str
    cutoff: int | None
    level: int | None  # the least relevant grade, if the name gives one

    def least_grade(self, level: int) -> int:
        """Return the least relevant grade in a run of that relevance level; nDCG ignores the level."""
        if self.kind == "nDCG":
            return 1
        return self.level or level

    def depth(self, longest: int) -> int:
        """Return how many hits of a list of length `longest` the measure reads."""
        if self.cutoff is None:
            return longest
        return min(self.cutoff, longest)


@dataclass(frozen=True)
class _Block:
    """
    Hold the hits and judgements of some queries.

    `hits` [Q, k] index `judged`, the ids of all judged documents. `grades` has query -> document -> grade.
    """

    hits: np.ndarray
    grades: dict[str, dict[str, int]]
    judged: Sequence[str]


def parse(name: str) -> Measure:
    """Return the measure of a name in any known spelling. RetrobenchError for an unknown measure."""
    match = _NAME.fullmatch(name.replace(" ", ""))
    if match is None:
        raise _unknown_measure(name)
    kind = _ALIASES.get(match["kind"], match["kind"])
    if kind not in _KINDS:
        raise _unknown_measure(name)
    if match["cutoff"] is None and kind not in _CUTOFF_OPTIONAL:
        raise _unknown_measure(name)
    cutoff = None
    if match["cutoff"]:
        cutoff = _parse_number(name, "cutoff", match["cutoff"], LARGEST_CUTOFF)
    level = _parse_option(name, kind, match["option"])
    if kind == "RR" and cutoff:
        kind = "MRR"
    return Measure(kind, cutoff, level)


def _parse_option(name: str, kind: str, option: str | None) -> int | None:
    """Return the relevance level of a measure's option in brackets; None if the option sets none."""
    if not option:
        return None
    if kind == "nDCG":
        if not _LINEAR_GAIN.fullmatch(option):
            raise _wrong_option(name, kind, "dcg='log2', linear gain")
        return None
    if kind == _JUDGED:
        raise _wrong_option(name, kind, "no option")
    match = _LEVEL.fullmatch(option)
    if match is None:
        raise _wrong_option(name, kind, "rel=N, the least relevant grade")
    return _parse_number(name, "level", match["level"], LARGEST_GRADE)


def _parse_number(name: str, part: str, digits: str, largest: int) -> int:
    if len(digits) > len(str(largest)) or int(digits) > largest:
        raise RetrobenchError(f"Measure {quote(name)} has a {part} above {largest:,}. Give a smaller {part}.")
    return int(digits)


def _unknown_measure(name: str) -> RetrobenchError:
    return unknown("measure", name, _CHOICES, "ir_measures' spellings are understood too.")


def _wrong_option(name: str, kind: str, choice: str) -> RetrobenchError:
    return RetrobenchError(f"Measure {quote(name)} is not computed: {kind} takes only ({choice}).")


def canonical(name: str, level: int = 1) -> str:
    """
    Return the canonical spelling of a measure in a run of that relevance level.

    `RR@10` is `MRR@10`. `AP(rel=2)` is `MAP` at level 2 and `MAP(rel=2)` at any other. Raises RetrobenchError for an
    unknown measure.
    """
    parsed = parse(name)
    spelling = parsed.kind
    if parsed.level and parsed.level != level:
        spelling += f"(rel={parsed.level})"
    if parsed.cutoff:
        spelling += f"@{parsed.cutoff}"
    return spelling


def deepest(names: Sequence[str]) -> int | None:
    """Return the largest cutoff among the measures; None if a measure reads the whole ranking."""
    measures = [parse(name) for name in names]
    largest = 0
    for parsed in measures:
        if parsed.cutoff is None:
            return None
        largest = max(largest, parsed.cutoff)
    return largest


def measure(
    queries: Sequence[str],
    hits: np.ndarray,
    ids: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    names: Sequence[str],
    level: int = 1,
) -> dict[str, dict[str, float]]:
    """
    Return canonical name -> query -> value for every query of the qrels; a query without hits has value 0.

    `hits` [Q, k] are rows of `ids` in ranked order: -1 ends a list, -2 is a document outside `ids`. `ids` must hold
    every judged document of the ranking. A grade from `level` on is relevant, unless the measure's name sets another
    level. Raises RetrobenchError for queries on which the engines differ by more than 1e-6, or with a value outside
    0 to 1.
    """
    measures = {canonical(name, level): parse(name) for name in names}
    judged = judged_documents(qrels)
    judged_index = _judged_index(ids, judged)
    row_of_query = _positions(queries)
    values: dict[str, dict[str, float]] = {name: {} for name in measures}
    judged_queries = list(qrels)
    for start in range(0, len(judged_queries), _BLOCK):
        query_ids = judged_queries[start : start + _BLOCK]
        block_hits = _judged_hits(query_ids, row_of_query, hits, judged_index)
        grades = {query: dict(qrels[query]) for query in query_ids}
        block = _Block(block_hits, grades, judged)
        block_values = _measure_block(block, measures, level)
        for name in measures:
            values[name].update(zip(query_ids, block_values[name].tolist(), strict=True))
    return values


def _measure_block(block: _Block, measures: Mapping[str, Measure], level: int) -> dict[str, np.ndarray]:
    """Return each measure's values, [Q]. Both engines compute all measures but Judged."""
    values = {}
    engine_measures = {}
    for name, parsed in measures.items():
        if parsed.kind == _JUDGED:
            values[name] = _judged_shares(block, parsed.depth(block.hits.shape[1]))
        else:
            engine_measures[name] = parsed
    if engine_measures:
        by_ranx = _by_ranx(block, engine_measures, level)
        check(list(block.grades), by_ranx, _by_trec_eval(block, engine_measures, level))
        values |= by_ranx
    return values


def _judged_shares(block: _Block, depth: int) -> np.ndarray:
    """Return the share of each query's first `depth` hits that are judged for the query, [Q]."""
    index_of = _positions(block.judged)
    shares = np.zeros(len(block.grades))
    for query, grades in enumerate(block.grades.values()):
        hits = block.hits[query, :depth]
        hits = hits[hits != _LIST_END]
        if len(hits):
            judged = [index_of[document] for document in grades]
            shares[query] = np.isin(hits, judged).mean()
    return shares


def _judged_index(ids: Sequence[str], judged: Sequence[str]) -> np.ndarray:
    """
    Return each row's index among the judged documents, -2 for a document without judgement.

    Two entries at the end serve the rows -2 and -1, which index an array from its end: they stay -2 and -1.
    """
    index_of = _positions(judged)
    indices = [index_of.get(identifier, _NOT_JUDGED) for identifier in ids]
    return np.asarray([*indices, _NOT_JUDGED, _LIST_END], np.int32)


def _positions(ids: Sequence[str]) -> dict[str, int]:
    return {identifier: position for position, identifier in enumerate(ids)}


def _judged_hits(
    query_ids: Sequence[str], row_of_query: Mapping[str, int], hits: np.ndarray, judged_index: np.ndarray
) -> np.ndarray:
    """Return the hits [q, k] of some queries as indices of judged documents; a query without hits has an empty list."""
    depth = hits.shape[1]
    judged_hits = np.full((len(query_ids), max(1, depth)), _LIST_END, np.int32)
    for position, query in enumerate(query_ids):
        if query in row_of_query:
            query_hits = hits[row_of_query[query]]
            judged_hits[position, :depth] = judged_index[query_hits]
    return judged_hits


def _by_ranx(block: _Block, measures: Mapping[str, Measure], level: int) -> dict[str, np.ndarray]:
    """Return each measure's values, [Q]. Arrays of (document, value) pairs spare ranx its dictionaries."""
    import ranx

    # Ranks stand in for scores, so nothing is tied. The ends of short lists, -1 among the hits, match no judgement.
    documents = block.hits.astype(np.float64)
    ranks = np.arange(documents.shape[1], 0, -1.0)
    scores = np.broadcast_to(ranks, documents.shape)
    run = np.stack([documents, scores], axis=-1)
    names = {name: _ranx_name(measure, level) for name, measure in measures.items()}
    ranx_names = list(names.values())
    if len(ranx_names) == 1:
        ranx_names *= 2  # ranx fails on a single measure with a cutoff
    judgements = _ranx_judgements(block)
    values = ranx.evaluate(judgements, run, ranx_names, return_mean=False)
    return {name: np.asarray(values[ranx_name], np.float64) for name, ranx_name in names.items()}


def _ranx_name(measure: Measure, level: int) -> str:
    name = _RANX[measure.kind]
    if measure.cutoff:
        name += f"@{measure.cutoff}"
    return f"{name}-l{measure.least_grade(level)}"


def _ranx_judgements(block: _Block) -> np.ndarray:
    """Return the judgements as pairs [Q, n, 2] of document index and grade, highest grades first."""
    index_of = _positions(block.judged)
    longest = max(1, *map(len, block.grades.values()))
    judgements = np.full((len(block.grades), longest, 2), (_NO_JUDGEMENT, 0.0))
    for query, grades in enumerate(block.grades.values()):
        # ranx takes the judgements of an array, in their order, for the ideal ranking.
        ideal = sorted(grades, key=grades.__getitem__, reverse=True)
        for position, document in enumerate(ideal):
            grade = max(grades[document], 0)
            judgements[query, position] = index_of[document], grade
    return judgements


def _by_trec_eval(block: _Block, measures: Mapping[str, Measure], level: int) -> dict[str, np.ndarray]:
    """
    Return each measure's values, [Q].

    trec_eval's reciprocal rank and average precision have no cutoff. So every measure gets a ranking of its depth.
    """
    longest = block.hits.shape[1]
    groups: dict[int, dict[int, list[str]]] = {}  # depth -> least relevant grade -> names
    for name, measure in measures.items():
        levels = groups.setdefault(measure.depth(longest), {})
        names = levels.setdefault(measure.least_grade(level), [])
        names.append(name)
    values: dict[str, np.ndarray] = {}
    for depth, levels in groups.items():
        run = _pytrec_run(block, depth)
        for least_grade, names in levels.items():
            group = {name: measures[name] for name in names}
            values |= _evaluate(block, run, least_grade, group)
    return values


def _evaluate(
    block: _Block, run: dict[str, dict[str, float]], least_grade: int, measures: Mapping[str, Measure]
) -> dict[str, np.ndarray]:
    import pytrec_eval

    names = {name: _trec_name(measure) for name, measure in measures.items()}
    # A query whose grades are all below -1 ends the process in trec_eval's code. All measures take such a grade for 0.
    grades = {}
    for query, by_document in block.grades.items():
        grades[query] = {document: max(grade, 0) for document, grade in by_document.items()}
    evaluator = pytrec_eval.RelevanceEvaluator(grades, set(names.values()), relevance_level=least_grade)
    by_query = evaluator.evaluate(run)
    values = {}
    for name, trec_name in names.items():
        key = trec_name.replace(".", "_")
        column = []
        for query in block.grades:
            query_values = by_query.get(query, {})
            column.append(query_values.get(key, 0.0))
        values[name] = np.asarray(column)
    return values


def _trec_name(measure: Measure) -> str:
    name = _TREC[measure.kind]
    if name in _TREC_WITH_CUTOFF:
        return f"{name}.{measure.cutoff}"
    return name


def _pytrec_run(block: _Block, depth: int) -> dict[str, dict[str, float]]:
    """Return query -> document -> score for the first `depth` hits. Scores strictly fall: ties are broken already."""
    hits = block.hits[:, :depth]
    scores = np.arange(depth, 0, -1.0).tolist()
    unjudged = [f"\1{position:09}" for position in range(depth)]  # no document has such an id
    lengths = (hits != _LIST_END).sum(1).tolist()
    lists = [unjudged[:length] for length in lengths]
    for row, position in np.argwhere(hits >= 0).tolist():
        document = hits[row, position]
        lists[row][position] = block.judged[document]
    run = {}
    for query, documents in zip(block.grades, lists, strict=True):
        run[query] = dict(zip(documents, scores, strict=False))
    return run


def check(queries: Sequence[str], values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> None:
    """Raise RetrobenchError where two engines differ by more than 1e-6 or a value is outside 0 to 1."""
    for name, computed in values.items():
        in_range = (computed >= 0) & (computed <= 1 + _TOLERANCE)
        difference = np.abs(np.where(in_range, computed, 0) - reference[name])
        agree = in_range & (difference <= _TOLERANCE)
        if agree.all():
            continue
        wrong = np.flatnonzero(~agree)
        examples = []
        for row in wrong[:3]:
            examples.append(f"{queries[row]} ({computed[row]:.6f}, {reference[name][row]:.6f})")
        raise RetrobenchError(
            f"ranx and trec_eval disagree on {name} for {len(wrong)} queries: {', '.join(examples)}. This is a fault "
            "of the scorer; report it with the run file."
        )
