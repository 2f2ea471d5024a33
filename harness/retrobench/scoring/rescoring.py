"""
Score a TREC run file by three engines: ranx, trec_eval's code, and BEIR's `EvaluateRetrieval`.

* rescore(...)   the scores of a run file, with the differences between the engines
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from retrobench.scoring import trec
from retrobench.scoring.conventions import BEIR_ROUNDING, beir_means
from retrobench.scoring.measures import canonical
from retrobench.scoring.score import Judgements, score_run

__all__ = ["Rescored", "rescore"]


class Rescored(NamedTuple):
    """The scores of a run file, by the measures' names as given."""

    means: dict[str, float]
    values: dict[str, dict[str, float]]  # measure -> query -> value
    disagreements: tuple[str, ...]  # of BEIR with ranx and trec_eval


def rescore(run: Path, judgements: Judgements, names: Sequence[str]) -> Rescored:
    """Return the scores of a run file. RetrobenchError for a faulty file, and where ranx and trec_eval disagree."""
    parsed = trec.read_run(run)
    ranking = parsed.rank(judgements.exclusions)
    scored = score_run(str(run), parsed, ranking, judgements, names)
    spelling = {name: canonical(name, judgements.level) for name in names}
    means = {name: scored.measures[spelling[name]] for name in names}
    values = {name: scored.values[spelling[name]] for name in names}
    by_beir = beir_means(parsed, ranking, judgements.grades, names, judgements.level)
    return Rescored(means, values, tuple(_disagreements(means, by_beir)))


def _disagreements(means: dict[str, float], by_beir: dict[str, float]) -> Iterator[str]:
    for name, mean in by_beir.items():
        if abs(mean - means[name]) > BEIR_ROUNDING:
            yield f"BEIR's EvaluateRetrieval gives {name} {mean:.5f}, and ranx and trec_eval {means[name]:.5f}"
