"""A running experiment: the record that every stage gets beside its artifacts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec

from retrobench.config import Experiment
from retrobench.stages.inputs import Inputs
from retrobench.store import Artifact, Source, Store

__all__ = ["Work", "once"]

P = ParamSpec("P")


@dataclass(frozen=True, eq=False)
class Work:
    """An experiment, its inputs and the store of its artifacts."""

    experiment: Experiment
    inputs: Inputs
    store: Store
    artifacts: dict[tuple[Any, ...], Artifact] = field(default_factory=dict)  # of stages marked `once`

    @property
    def tokenizer(self) -> Source:
        """Return the tokenizer of the base."""
        assert self.inputs.base is not None, "a baseline tokenises nothing"
        return self.inputs.base.tokenizer


def once(stage: Callable[Concatenate[Work, P], Artifact]) -> Callable[Concatenate[Work, P], Artifact]:
    """Call a stage once per arguments in an experiment, because several steps need equal tokens and vectors."""

    @functools.wraps(stage)
    def call(work: Work, /, *args: P.args, **kwargs: P.kwargs) -> Artifact:
        key = (stage.__name__, *args, *kwargs.items())
        if key not in work.artifacts:
            work.artifacts[key] = stage(work, *args, **kwargs)
        return work.artifacts[key]

    return call
