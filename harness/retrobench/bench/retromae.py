"""RetroMAE's training step beside the released one."""

from __future__ import annotations

from collections.abc import Iterator

from retrobench.bench.frame import Case, Setting
from retrobench.bench.peers import collators
from retrobench.bench.pretraining import Released, step_cases

__all__ = ["cases"]


def cases(setting: Setting) -> Iterator[Case]:
    """With each side's collator, and the steps alone."""
    yield from step_cases("retromae", Released("RetroMAE", collators.retromae, "retromae"), setting)
