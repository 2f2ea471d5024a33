"""BoW prediction's training step beside the released one."""

from __future__ import annotations

from collections.abc import Iterator

from retrobench.bench.frame import Case, Setting
from retrobench.bench.peers import collators
from retrobench.bench.pretraining import Released, step_cases

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    """With each side's collator, and the steps alone. The released step reads its losses each time."""
    yield from step_cases("bow-mae", Released("bowdpr", collators.bow, "bow", reads=True), setting)
