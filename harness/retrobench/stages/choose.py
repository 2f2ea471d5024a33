"""The choice of a fine-tuning round for the test: the round that does best on the validation queries."""

from __future__ import annotations

from collections.abc import Mapping

from retrobench.stages.score import scores
from retrobench.store import Artifact

__all__ = ["VALIDATION_DEPTH", "choose"]

VALIDATION_DEPTH = 100  # documents per validation query; the choice of a round needs no more


def choose(encoders: Mapping[str, Artifact], validation: Mapping[str, Artifact], measure: str) -> str:
    """Return the round whose validation score is best by `measure`, the later one among equals.

    Without validation scores it is the last round.
    """
    if not validation:
        return list(encoders)[-1]
    means = {name: scores(scored)[measure] for name, scored in validation.items()}
    return max(reversed(means), key=lambda name: means[name])
