"""Measures of a ranking: computed by ranx, and again by trec_eval's own code, which must agree."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from retrobench.errors import RetrobenchError, unknown

__all__ = ["check", "deepest", "measure"]

_RANX = {"nDCG": "ndcg", "MRR": "mrr", "RR": "mrr", "Recall": "recall", "Success": "hit_rate", "MAP": "map"}
_TREC = {
    "nDCG": "ndcg_cut",
    "MRR": "recip_rank",
    "RR": "recip_rank",
    "Recall": "recall",
    "Success": "success",
    "MAP": "map",
}
_AGREE = 1e-6
_AT_ONCE = 1000  # queries whose hits stand in Python objects at a time


def _parse(name: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"([A-Za-z]+)(?:@([1-9]\d*))?", name)
    if not found or found[1] not in _RANX or (found[2] is None and found[1] not in ("RR", "MAP")):
        raise unknown("measure", name, [f"{kind}@10" for kind in _RANX] + ["RR", "MAP"])
    return found[1], int(found[2]) if found[2] else None


def deepest(names: Sequence[str]) -> int | None:
    """The largest cut-off among the measures; None if one of them reads the whole ranking."""
    cuts = [_parse(name)[1] for name in names]
    return None if None in cuts else max(cut for cut in cuts if cut is not None)


def measure(
    queries: Sequence[str],
    hits: np.ndarray,
    ids: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    names: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Measure -> query -> value for every query of the qrels, 0 for one that the ranking lacks.

    `hits` [Q, k] are rows of `ids` in ranked order, -1 where a list ends. RetrobenchError names the queries on which
    the second engine differs by more than 1e-6.
    """
    row_of = {identifier: row for row, identifier in enumerate(ids)}
    at = {query: place for place, query in enumerate(queries)}
    judged = list(qrels)
    values: dict[str, list[float]] = {name: [] for name in names}
    for first in range(0, len(judged), _AT_ONCE):
        block = judged[first : first + _AT_ONCE]
        rows = np.stack([hits[at[q]] if q in at else np.full(hits.shape[1], -1) for q in block])
        found = _by_ranx(rows, [qrels[q] for q in block], row_of, names)
        check(block, found, _by_trec_eval(block, rows, ids, qrels, names))
        for name in names:
            values[name] += found[name].tolist()
    return {name: dict(zip(judged, of, strict=True)) for name, of in values.items()}


def _by_ranx(
    rows: np.ndarray, grades: Sequence[Mapping[str, int]], row_of: Mapping[str, int], names: Sequence[str]
) -> dict[str, np.ndarray]:
    import ranx

    # Arrays of (document, value) pairs spare ranx its dictionaries. Ranks stand in for scores, so nothing is tied, and
    # what fills short lists up can match nothing: -2 among the hits, -3 with grade 0 among the judgements.
    ranks = np.arange(rows.shape[1], 0, -1.0)
    run = np.stack([np.where(rows < 0, -2.0, rows), np.broadcast_to(ranks, rows.shape)], axis=-1)
    width = max(map(len, grades))
    judged = np.full((len(grades), width, 2), (-3.0, 0.0))
    for query, of in enumerate(grades):
        # ranx takes the judgements of an array, as they stand, for the ideal ranking.
        for place, (document, grade) in enumerate(sorted(of.items(), key=lambda item: -item[1])):
            judged[query, place] = row_of.get(document, -4 - place), max(grade, 0)
    asked = {name: _RANX[_parse(name)[0]] + (f"@{_parse(name)[1]}" if _parse(name)[1] else "") for name in names}
    texts = list(asked.values())  # ranx fails on a single measure with a cut-off: it is asked for twice
    found = ranx.evaluate(judged, run, texts if len(texts) > 1 else texts * 2, return_mean=False)
    return {name: np.asarray(found[text], np.float64) for name, text in asked.items()}


def _by_trec_eval(
    block: Sequence[str],
    rows: np.ndarray,
    ids: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    import pytrec_eval

    found: dict[str, np.ndarray] = {}
    for cut in {_parse(name)[1] if _parse(name)[0] in ("MRR", "RR", "MAP") else 0 for name in names}:
        # trec_eval's reciprocal rank has no cut-off of its own: the ranking is cut for it.
        kept = rows[:, :cut] if cut else rows
        run = {
            query: {ids[row]: float(kept.shape[1] - rank) for rank, row in enumerate(hits) if row >= 0}
            for query, hits in zip(block, kept.tolist(), strict=True)
        }
        now = {n for n in names if (_parse(n)[1] if _parse(n)[0] in ("MRR", "RR", "MAP") else 0) == cut}
        asked = {n: _TREC[_parse(n)[0]] + (f"_{_parse(n)[1]}" if _parse(n)[1] and not cut else "") for n in now}
        texts = {re.sub(r"_(\d+)$", r".\1", text) for text in asked.values()}
        of = pytrec_eval.RelevanceEvaluator({q: dict(qrels[q]) for q in block}, texts).evaluate(run)
        for name, text in asked.items():
            found[name] = np.asarray([of.get(query, {}).get(text, 0.0) for query in block])
    return found


def check(queries: Sequence[str], found: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    """RetrobenchError naming measure and queries where two engines differ by more than 1e-6."""
    for name, values in found.items():
        apart = np.flatnonzero(np.abs(values - other[name]) > _AGREE)
        if len(apart):
            shown = ", ".join(f"{queries[at]} ({values[at]:.6f}, {other[name][at]:.6f})" for at in apart[:3])
            raise RetrobenchError(
                f"ranx and trec_eval disagree on {name} for {len(apart)} queries: {shown}. This is a fault of the "
                "scorer; report it with the run file."
            )
