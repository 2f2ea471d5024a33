"""An experiment: an entrant under a track, with a seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from retrobench.config.baseline import Baseline
from retrobench.config.composition import Composition
from retrobench.config.track import Pretrain, Track
from retrobench.data import groups, is_local, load
from retrobench.errors import RetrobenchError
from retrobench.objective import Objective

__all__ = ["Entrant", "Experiment", "absent_datasets"]


@dataclass(frozen=True)
class Entrant:
    """A configured objective, or a released checkpoint in place of its pre-training."""

    name: str  # in tables
    objective: Objective
    representation: str
    checkpoint: str = ""  # a folder or hub id to fine-tune instead of pre-training
    distribution: str = "retrobench"
    version: str = ""
    code: str = ""  # a hash of the plugin's source
    file: Path | None = None  # of a `--plugin`
    # A stage, `pretrain` or `adapt`, that has another objective or other settings.
    stages: Mapping[str, Entrant] = field(default_factory=dict)
    parts: tuple[Entrant, ...] = ()  # the components of a composition

    @property
    def kind(self) -> str:
        """Return the objective's name."""
        return self.objective.name

    @property
    def settings(self) -> dict[str, Any]:
        """Return the objective's settings by name, and those of a stage that differ, as `adapt.KEY`."""
        objective: object = self.objective
        if isinstance(objective, Composition):
            return objective.settings
        settings = asdict(cast(Any, self.objective))
        changes: dict[str, Any] = {}
        for stage, entrant in self.stages.items():
            is_other = entrant.kind != self.kind
            if is_other:
                changes[f"{stage}.objective"] = entrant.kind
            for key, value in entrant.settings.items():
                if is_other or value != settings[key]:
                    changes[f"{stage}.{key}"] = value
        return settings | changes

    def at(self, stage: str) -> Entrant:
        """Return the entrant of a stage: another objective, other settings, or itself."""
        return self.stages.get(stage, self)

    @property
    def pretrains(self) -> bool:
        """Tell whether the track's pre-training takes place."""
        return bool(self.objective.pretrains) and not self.checkpoint


@dataclass(frozen=True)
class Experiment:
    """A track, an entrant and a seed: everything that a row depends on.

    The entrant's stages that the track lacks are left out. RetrobenchError lists every fault where the track does not
    fit the entrant.
    """

    track: Track
    entrant: Entrant | Baseline
    seed: int
    absent: frozenset[str] = frozenset()  # ids of `evaluate.transfer` that are not at hand, and not tested

    def __post_init__(self) -> None:
        if isinstance(self.entrant, Baseline):
            return
        stages = {name: stage for name, stage in self.entrant.stages.items() if name in self.pretraining}
        object.__setattr__(self, "entrant", replace(self.entrant, stages=stages))
        faults = [*_faults(self.track, self.entrant), *self._probe_faults()]
        if faults:
            raise RetrobenchError(f"{'; '.join(faults)} (track {self.track.name}).")

    def _probe_faults(self) -> Iterator[str]:
        """Yield a clause for each section whose probes have no questions, or those of the test."""
        for section, dataset in self.probes.items():
            if not dataset:
                yield (
                    f"{section}.probe_every is set, and no dataset has questions for its probes: "
                    f"set {section}.probe_dataset or evaluate.select"
                )
            elif dataset != self.track.evaluate.select and dataset in self.datasets:
                yield f"{section}.probe_dataset is {dataset}, which is tested: name other questions for the probes"

    @property
    def pretraining(self) -> dict[str, Pretrain]:
        """Return the track's pre-training sections by name, in the order of training."""
        if isinstance(self.entrant, Baseline):
            return {}
        return _pretraining(self.track, self.entrant)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Return the ids of the pre-training datasets."""
        names: list[str] = []
        for settings in self.pretraining.values():
            names += settings.corpus
        return tuple(names)

    @property
    def probes(self) -> dict[str, str]:
        """Return the id of the dataset that the probes of each pre-training section search, without other sections."""
        return {
            section: settings.probe.probe_dataset or self.track.evaluate.select
            for section, settings in self.pretraining.items()
            if settings.probe.probe_every
        }

    @property
    def datasets(self) -> tuple[str, ...]:
        """Return the ids of the evaluated datasets, each group replaced by its members, without the absent ones."""
        evaluate = self.track.evaluate
        datasets = [*_members(evaluate.datasets), *_members(evaluate.transfer)]
        return tuple(name for name in dict.fromkeys(datasets) if name not in self.absent)

    @property
    def transfer(self) -> tuple[str, ...]:
        """Return the ids of the datasets that are tested only where they are at hand, each group by its members."""
        evaluate = self.track.evaluate
        own = set(_members(evaluate.datasets))
        return tuple(name for name in dict.fromkeys(_members(evaluate.transfer)) if name not in own)

    @property
    def neural(self) -> Entrant:
        """Return the entrant of an experiment that trains. TypeError for a baseline."""
        if isinstance(self.entrant, Baseline):
            raise TypeError(f"{self.entrant.name} trains nothing")
        return self.entrant


def absent_datasets(track: Track) -> frozenset[str]:
    """Return the ids of `evaluate.transfer` that cannot be read without a download. Their tests are NOT RUN.

    RetrobenchError for an id that no collection has.
    """
    tested = set(_members(track.evaluate.datasets))
    transfer = [name for name in _members(track.evaluate.transfer) if name not in tested]
    return frozenset(name for name in transfer if not is_local(load(name)))


def _members(names: Iterable[str]) -> Iterator[str]:
    """Yield ids of datasets, each group replaced by its members."""
    for name in names:
        yield from groups.expand(name)


def _pretraining(track: Track, entrant: Entrant) -> dict[str, Pretrain]:
    if not entrant.pretrains:
        return {}
    sections = {"pretrain": track.pretrain, "adapt": track.adapt}
    return {name: section for name, section in sections.items() if section is not None}


def _faults(track: Track, entrant: Entrant) -> Iterator[str]:
    """Yield a clause for each conflict among the track's settings, and between track and entrant."""
    sections = _pretraining(track, entrant)
    for section, settings in sections.items():
        if not settings.corpus:
            yield f"{section}.corpus must name one or more datasets, got []"
        if not entrant.at(section).objective.pretrains:
            yield f"{section}.objective is {entrant.at(section).kind}, which does not pre-train"
    kinds = [entrant.at(section).kind for section in sections]
    if kinds and entrant.kind not in kinds:
        yield (
            f"{entrant.name} trains by {' and '.join(kinds)} alone, for the track has no other section than "
            f"{' and '.join(sections)}. Choose a track with both `pretrain` and `adapt`, or {entrant.kind} by itself"
        )
    finetune = track.finetune
    if not finetune.queries:
        yield "finetune.queries must name a dataset, got ''"
    if finetune.hard and not finetune.negatives:
        yield "finetune.negatives must be at least 1 for the negatives of finetune.hard, got 0"
    if track.mine.depth and not finetune.negatives and not track.distil.teacher:
        yield "finetune.negatives must be at least 1 for mined negatives, got 0, unless mine.depth is 0"
    if track.distil.teacher and not track.mine.depth:
        yield "mine.depth must be at least 1, got 0, unless distil.scores replaces distil.teacher"
