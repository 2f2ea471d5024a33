"""What is run: an entrant under a track, with a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, cast

from retrobench.config.track import Pretrain, Track
from retrobench.data import rules
from retrobench.errors import RetrobenchError
from retrobench.objective import Objective

__all__ = ["BASELINES", "Baseline", "Bm25", "Entrant", "Experiment"]


@dataclass(frozen=True)
class Bm25:
    """The lexical baseline of the bm25s library, Lucene's variant."""

    k1: float = 1.5
    b: float = 0.75


BASELINES: Mapping[str, type[Bm25]] = MappingProxyType({"bm25": Bm25})


@dataclass(frozen=True)
class Baseline:
    """A lexical baseline. It stands in tables beside the objectives, but trains and encodes nothing."""

    name: str  # as the tables show it
    kind: str  # a key of BASELINES
    bm25: Bm25 = Bm25()

    distribution, version, code, checkpoint = "retrobench", "", "", ""

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self.bm25)

    @property
    def representation(self) -> str:
        """Return the word that stands in a table's column of representations."""
        return self.kind


@dataclass(frozen=True)
class Entrant:
    """One configured objective, or a released checkpoint in place of its pre-training."""

    name: str  # as the tables show it
    objective: Objective
    representation: str
    checkpoint: str = ""  # a folder or hub id to fine-tune instead of pre-training
    distribution: str = "retrobench"
    version: str = ""
    code: str = ""  # distribution and version, or a hash of source that may change under them

    @property
    def kind(self) -> str:
        """Return the objective's name."""
        return self.objective.name

    @property
    def settings(self) -> dict[str, Any]:
        """Return the objective's settings by name."""
        return asdict(cast(Any, self.objective))

    @property
    def pretrains(self) -> bool:
        """Tell whether the track's pre-training takes place."""
        return bool(self.objective.pretrains) and not self.checkpoint


@dataclass(frozen=True)
class Experiment:
    """A track, an entrant and a seed: all that a row depends on.

    RetrobenchError where track and entrant do not go together; it tells every fault.
    """

    track: Track
    entrant: Entrant | Baseline
    seed: int

    def __post_init__(self) -> None:
        faults = [] if isinstance(self.entrant, Baseline) else list(_faults(self.track, self.entrant))
        if faults:
            raise RetrobenchError(f"{' '.join(faults)} (track {self.track.name})")

    @property
    def pretraining(self) -> dict[str, Pretrain]:
        """Return the sections by which the entrant is pre-trained, by name and in their order."""
        if isinstance(self.entrant, Baseline):
            return {}
        return _pretraining(self.track, self.entrant)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Return the ids of the datasets that are pre-trained on."""
        return tuple(name for settings in self.pretraining.values() for name in settings.corpus)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Return the ids of the datasets that are evaluated, each group as its members."""
        members = [name for given in self.track.evaluate.datasets for name in rules.expand(given)]
        return tuple(dict.fromkeys(members))

    @property
    def neural(self) -> Entrant:
        """Return the entrant of an experiment that trains. TypeError for a baseline."""
        if isinstance(self.entrant, Baseline):
            raise TypeError(f"{self.entrant.name} trains nothing")
        return self.entrant


def _pretraining(track: Track, entrant: Entrant) -> dict[str, Pretrain]:
    if not entrant.pretrains:
        return {}
    sections = {"pretrain": track.pretrain, "adapt": track.adapt}
    return {name: section for name, section in sections.items() if section is not None}


def _faults(track: Track, entrant: Entrant) -> Iterator[str]:
    """Yield a sentence for everything in which a track's settings, and the entrant's, do not go together."""
    for section, settings in _pretraining(track, entrant).items():
        if not settings.corpus:
            yield f"{section}.corpus is empty; give one or more dataset ids."
        if entrant.objective.couples_batch and settings.accumulation > 1:
            yield (
                f"{entrant.objective.name} compares the examples of a batch, so gradients cannot be accumulated over "
                f"{settings.accumulation} of them. Set {section}.accumulation=1 and a larger {section}.batch."
            )
    finetune, mine, distil = track.finetune, track.mine, track.distil
    if not finetune.queries:
        yield "finetune.queries is empty; give a dataset id."
    if finetune.accumulation > 1:
        yield "finetune.accumulation must be 1: in-batch negatives compare a batch's examples. Change finetune.batch."
    if finetune.hard and not finetune.negatives:
        yield "finetune.hard names negatives, but finetune.negatives is 0, so none would be used. Set it."
    if mine.depth and not finetune.negatives and not distil.teacher:
        yield (
            "mine.depth mines hard negatives, but finetune.negatives is 0, so none would be used. Set it, or "
            "mine.depth=0."
        )
    if distil.teacher and not mine.depth:
        yield "distil.teacher scores mined candidates, but mine.depth is 0. Set it, or give distil.scores."
