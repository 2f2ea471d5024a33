"""The choice of a fine-tuning round for the test, by its score on the validation queries."""

from __future__ import annotations

from collections.abc import Mapping

from retrobench.stages.score import scores
from retrobench.store import Artifact

__all__ = ["VALIDATION_DEPTH", "choose"]

VALIDATION_DEPTH = 100  # documents per validation query, enough to choose a round


def choose(encoders: Mapping[str, Artifact], validation: Mapping[str, Artifact], measure: str) -> str:
    """Return the round with the best validation score by `measure`. Ties go to the later round.

    Without validation scores, return the last round; a rehearsal has none yet, and every round costs as much.
    """
    if not validation or not all(scored.path.exists() for scored in validation.values()):
        return list(encoders)[-1]
    means = {name: scores(scored)[measure] for name, scored in validation.items()}
    return max(reversed(means), key=lambda name: means[name])
