"""
Measures of a ranking: computed by ranx, and again by trec_eval's own code, which must agree.

* canonical(name)   the one spelling of a measure
* measure(...)      every query's values
* check(...)        where two engines differ

Binary measures take a grade as relevant from a level on; nDCG keeps the grades, with linear gain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from retrobench.errors import RetrobenchError, unknown

__all__ = ["canonical", "check", "deepest", "measure", "unanswerable"]


_RANX = {"nDCG": "ndcg", "MRR": "mrr", "RR": "mrr", "Recall": "recall", "Success": "hit_rate", "MAP": "map"}
_TREC = {
    "nDCG": "ndcg_cut",
    "MRR": "recip_rank",
    "RR": "recip_rank",
    "Recall": "recall",
    "Success": "success",
    "MAP": "map",
}
_CUTS = ("ndcg_cut", "recall", "success")  # these take a cut-off in trec_eval
_ALIASES = {"AP": "MAP", "R": "Recall"}  # ir_measures' names
_UNCUT = ("RR", "MAP")  # read the whole ranking where they have no cut-off
_CHOICES = (*(f"{kind}@10" for kind in _RANX), *_UNCUT, "RR(rel=2)@10")
_NAME = re.compile(r"([A-Za-z]+)(?:\(([^()]*)\))?(?:@([1-9]\d*))?")
_AGREE = 1e-6
_AT_ONCE = 1000  # queries whose hits stand in Python objects at a time


class _Measure(NamedTuple):
    kind: str
    cut: int | None
    level: int | None  # the least relevant grade, where the name gives one

    def at(self, level: int) -> int:
        """The least relevant grade in a run whose level is this. nDCG knows no level."""
        return 1 if self.kind == "nDCG" else self.level or level


def _parse(name: str) -> _Measure:
    found = _NAME.fullmatch(name.replace(" ", ""))
    kind = _ALIASES.get(found[1], found[1]) if found else ""
    if not found or kind not in _RANX or (found[3] is None and kind not in _UNCUT):
        raise unknown("measure", name, _CHOICES, "ir_measures' spellings are understood too.")
    cut, level, option = int(found[3]) if found[3] else None, None, found[2] or ""
    if kind != "nDCG" and re.fullmatch(r"rel=[1-9]\d*", option):
        level = int(option.removeprefix("rel="))
    elif option and not (kind == "nDCG" and re.fullmatch(r"dcg=(['\"])log2\1", option)):
        choice = "dcg='log2', linear gain" if kind == "nDCG" else "rel=N, the least relevant grade"
        raise RetrobenchError(f"Measure {name!r} asks for what is not computed: {kind} takes only ({choice}).")
    return _Measure("MRR" if kind == "RR" and cut else kind, cut, level)


def canonical(name: str, level: int = 1) -> str:
    """The one spelling of a measure in a run of that relevance level, by which its values are called.

    `RR@10` is `MRR@10`, `AP(rel=2)` is `MAP` at level 2 and `MAP(rel=2)` at any other. RetrobenchError for what is
    not computed.
    """
    kind, cut, own = _parse(name)
    return kind + (f"(rel={own})" if own and own != level else "") + (f"@{cut}" if cut else "")


def deepest(names: Sequence[str]) -> int | None:
    """The largest cut-off among the measures; None if one of them reads the whole ranking."""
    cuts = [_parse(name).cut for name in names]
    return None if None in cuts else max((cut for cut in cuts if cut is not None), default=0)


def unanswerable(qrels: Mapping[str, Mapping[str, int]], level: int = 1) -> list[str]:
    """The judged queries without a single document of that grade or above: they count 0 in every mean."""
    return [query for query, grades in qrels.items() if max(grades.values(), default=0) < level]


def measure(
    queries: Sequence[str],
    hits: np.ndarray,
    ids: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    names: Sequence[str],
    level: int = 1,
) -> dict[str, dict[str, float]]:
    """Canonical name -> query -> value for every query of the qrels, 0 for one that the ranking lacks.

    `hits` [Q, k] are rows of `ids` in ranked order, -1 where a list ends, -2 for a document outside `ids`, of which
    only the judged ones matter. A grade from `level` on is relevant, unless
    the measure's name says another. RetrobenchError names the queries on which the second engine differs by more than
    1e-6, or whose value is no fraction.
    """
    at = {query: place for place, query in enumerate(queries)}
    judged = list({document: None for grades in qrels.values() for document in grades})
    labels, nothing = _labels(ids, judged), np.full(max(1, hits.shape[1]), -1)
    asked = {canonical(name, level): _parse(name) for name in names}
    values: dict[str, list[float]] = {name: [] for name in asked}
    for first in range(0, len(qrels), _AT_ONCE):
        block = list(qrels)[first : first + _AT_ONCE]
        rows = np.stack([labels[hits[at[q]]] if q in at and hits.shape[1] else nothing for q in block])
        grades = {query: dict(qrels[query]) for query in block}
        found = _by_ranx(rows, grades, judged, asked, level)
        check(block, found, _by_trec_eval(rows, grades, judged, asked, level))
        for name in asked:
            values[name] += found[name].tolist()
    return {name: dict(zip(qrels, of, strict=True)) for name, of in values.items()}


def _labels(ids: Sequence[str], judged: Sequence[str]) -> np.ndarray:
    """For each row of `ids`, and at the end for -2 and -1: its place among the judged documents, -2 if not there."""
    place_of = {document: place for place, document in enumerate(judged)}
    return np.asarray([*(place_of.get(identifier, -2) for identifier in ids), -2, -1], np.int32)


def _by_ranx(
    rows: np.ndarray,
    grades: Mapping[str, Mapping[str, int]],
    judged: Sequence[str],
    asked: Mapping[str, _Measure],
    level: int,
) -> dict[str, np.ndarray]:
    import ranx

    # Arrays of (document, value) pairs spare ranx its dictionaries. Ranks stand in for scores, so nothing is tied, and
    # what fills short lists up can match nothing: -1 among the hits, -3 with grade 0 among the judgements.
    ranks = np.arange(rows.shape[1], 0, -1.0)
    run = np.stack([rows.astype(np.float64), np.broadcast_to(ranks, rows.shape)], axis=-1)
    place_of = {document: place for place, document in enumerate(judged)}
    pairs = np.full((len(grades), max(1, *map(len, grades.values())), 2), (-3.0, 0.0))
    for query, of in enumerate(grades.values()):
        # ranx takes the judgements of an array, as they stand, for the ideal ranking.
        for place, (document, grade) in enumerate(sorted(of.items(), key=lambda item: -item[1])):
            pairs[query, place] = place_of[document], max(grade, 0)
    texts = {}
    for name, of_name in asked.items():
        cut = f"@{of_name.cut}" if of_name.cut else ""
        texts[name] = f"{_RANX[of_name.kind]}{cut}-l{of_name.at(level)}"
    several = list(texts.values())  # ranx fails on a single measure with a cut-off: it is asked for twice
    found = ranx.evaluate(pairs, run, several if len(several) > 1 else several * 2, return_mean=False)
    return {name: np.asarray(found[text], np.float64) for name, text in texts.items()}


def _by_trec_eval(
    rows: np.ndarray,
    grades: Mapping[str, dict[str, int]],
    judged: Sequence[str],
    asked: Mapping[str, _Measure],
    level: int,
) -> dict[str, np.ndarray]:
    import pytrec_eval

    # trec_eval's reciprocal rank and average precision know no cut-off: every measure gets a ranking cut for it.
    alike: dict[int, dict[int, list[str]]] = {}
    for name, of in asked.items():
        alike.setdefault(min(of.cut or rows.shape[1], rows.shape[1]), {}).setdefault(of.at(level), []).append(name)
    found: dict[str, np.ndarray] = {}
    for cut, levels in alike.items():
        run = _as_run(list(grades), rows[:, :cut], judged)
        for at, names in levels.items():
            texts = {name: _TREC[asked[name].kind] for name in names}
            texts = {name: text + (f".{asked[name].cut}" if text in _CUTS else "") for name, text in texts.items()}
            values = pytrec_eval.RelevanceEvaluator(grades, set(texts.values()), relevance_level=at).evaluate(run)
            for name, text in texts.items():
                found[name] = np.asarray([values.get(q, {}).get(text.replace(".", "_"), 0.0) for q in grades])
    return found


def _as_run(queries: Sequence[str], rows: np.ndarray, judged: Sequence[str]) -> dict[str, dict[str, float]]:
    ranks = [float(rank) for rank in range(rows.shape[1], 0, -1)]  # strictly falling: ties are broken already
    others = [f"\1{place:09}" for place in range(len(ranks))]  # no document has such an id: none of them is judged
    lists = [others[:count] for count in (rows != -1).sum(1).tolist()]
    for query, place in np.argwhere(rows >= 0).tolist():
        lists[query][place] = judged[rows[query, place]]
    return {query: dict(zip(names, ranks, strict=False)) for query, names in zip(queries, lists, strict=True)}


def check(queries: Sequence[str], found: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    """RetrobenchError naming measure and queries where two engines differ by more than 1e-6, or give no fraction."""
    for name, values in found.items():
        fraction = (values >= 0) & (values <= 1 + _AGREE)
        apart = np.flatnonzero(~(fraction & (np.abs(np.where(fraction, values, 0) - other[name]) <= _AGREE)))
        if len(apart):
            shown = ", ".join(f"{queries[at]} ({values[at]:.6f}, {other[name][at]:.6f})" for at in apart[:3])
            raise RetrobenchError(
                f"ranx and trec_eval disagree on {name} for {len(apart)} queries: {shown}. This is a fault of the "
                "scorer; report it with the run file."
            )
