"""
Pre-training methods with both sides: our objective, and the collator and loss released with the paper.

* Method                 a method, by the BoW paper's name for it
* METHODS                the lines of that paper's table of speed, in its order
* MLM, ENHANCED, BOW     three of them
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from retrobench.bench.baselines import SentenceDecoder
from retrobench.bench.models import installed_objective
from retrobench.bench.peers import collators
from retrobench.bench.peers.collators import RATIO, Collator
from retrobench.plan import Shape, arithmetic, parts_of

__all__ = ["BOW", "ENHANCED", "METHODS", "MLM", "Method"]


@dataclass(frozen=True)
class Method:
    """A pre-training method; `loss` and `project` are empty where no step was released."""

    name: str
    objective: Callable[[], Any]  # ours, without settings
    collator: Collator  # the released collator
    loss: str = ""  # of `peers.steps.Released`
    project: str = ""
    reads_losses: bool = False  # whether the released step reads its losses from the device each time

    def flops(self, shape: Shape, length: float) -> float:
        """Return the FLOPs per token of a training step over texts of `length` tokens."""
        return arithmetic.pretraining(shape, length, parts_of(self.objective().name, {"mask_ratio": RATIO}))


MLM = Method(
    name="Pure MLM",
    objective=partial(installed_objective, "mlm"),
    collator=collators.mlm,
    loss="mlm",
)
AUTO_ENCODING = Method(
    name="Auto-Encoding",
    objective=partial(SentenceDecoder, causal=False),
    collator=collators.ae,
)
AUTO_REGRESSION = Method(
    name="Auto-Regression",
    objective=partial(SentenceDecoder, causal=True),
    collator=collators.ar,
)
ENHANCED = Method(
    name="Enhanced Decoding",
    objective=partial(installed_objective, "retromae"),
    collator=collators.retromae,
    loss="retromae",
    project="RetroMAE",
)
BOW = Method(
    name="BoW",
    objective=partial(installed_objective, "bow-mae"),
    collator=collators.bow,
    loss="bow",
    project="bowdpr",
    reads_losses=True,
)
METHODS = (MLM, AUTO_ENCODING, AUTO_REGRESSION, ENHANCED, BOW)
