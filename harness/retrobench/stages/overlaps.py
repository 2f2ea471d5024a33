"""The questions that an experiment's test shares with its training and validation, compared before the first stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from retrobench.config import Baseline, Experiment
from retrobench.data import Collection, Overlap, Questions, find_overlap, read_questions
from retrobench.errors import RetrobenchError

__all__ = ["OverlapCheck", "Overlaps"]


@dataclass(frozen=True)
class Overlaps:
    """What the parts of an experiment share. A baseline trains on nothing and has no overlap."""

    training: Mapping[str, Overlap] = field(default_factory=dict)  # of each test dataset with the training
    validation: Mapping[str, Overlap] = field(default_factory=dict)  # of each test dataset with the validation
    selection: Overlap | None = None  # of the validation with the training

    def facts(self, dataset_id: str) -> dict[str, Any]:
        """Return the facts of a row about a test dataset."""
        facts: dict[str, Any] = {}
        for name, role, overlaps in (
            ("overlap", "train", self.training),
            ("overlap_validation", "validation", self.validation),
        ):
            overlap = overlaps.get(dataset_id)
            if overlap is not None:
                counts = {"questions": overlap.questions, "texts": overlap.texts, "documents": overlap.documents}
                facts[name] = {role: overlap.train, **counts}
        return facts

    def sentences(self) -> Iterator[str]:
        """Yield a sentence for each pair of datasets that share questions."""
        for overlap in self.training.values():
            if overlap.questions:
                yield _shared(overlap, "the entrants are trained on")
        for overlap in self.validation.values():
            if overlap.questions:
                yield _shared(overlap, "the round is chosen on")
        if self.selection is not None and self.selection.questions:
            yield _shared(self.selection, "the entrants are trained on")


class OverlapCheck:
    """Compares the datasets of experiments. Each is read once, and each pair is compared once.

    With `allowed`, shared questions are kept for the row instead of being refused.
    """

    def __init__(self, collections: Mapping[str, Collection], allowed: bool) -> None:
        self._collections = collections
        self._allowed = allowed
        self._questions: dict[str, Questions] = {}
        self._overlaps: dict[tuple[str, str], Overlap] = {}

    def check(self, experiment: Experiment) -> Overlaps:
        """Return the overlaps of an experiment. RetrobenchError where its test has questions of its training."""
        if isinstance(experiment.entrant, Baseline):
            return Overlaps()
        train = experiment.track.finetune.queries
        select = experiment.track.evaluate.select
        training = {name: self._overlap(train, name) for name in experiment.datasets}
        validation: dict[str, Overlap] = {}
        selection = None
        if select:
            validation = {name: self._overlap(select, name) for name in experiment.datasets}
            selection = self._overlap(train, select)
        overlaps = Overlaps(training, validation, selection)
        if not self._allowed:
            _refuse(overlaps)
        return overlaps

    def _overlap(self, train: str, test: str) -> Overlap:
        pair = train, test
        if pair not in self._overlaps:
            self._overlaps[pair] = find_overlap(self._read(train), self._read(test))
        return self._overlaps[pair]

    def _read(self, name: str) -> Questions:
        if name not in self._questions:
            self._questions[name] = read_questions(self._collections[name])
        return self._questions[name]


def _refuse(overlaps: Overlaps) -> None:
    faults = []
    for overlap in overlaps.training.values():
        if overlap.questions:
            faults.append(_shared(overlap, "finetune.queries trains on"))
    for overlap in overlaps.validation.values():
        if overlap.questions:
            faults.append(_shared(overlap, "evaluate.select chooses the round on"))
    if faults:
        raise RetrobenchError(
            f"{' '.join(faults)} Name other questions in the track, or add --allow-overlap: "
            "the row and its table then say so."
        )


def _shared(overlap: Overlap, use: str) -> str:
    """Return the shared questions in a sentence. `use` is the use of the other dataset, such as "X trains on"."""
    examples = ", ".join(overlap.examples)
    if overlap.questions > len(overlap.examples):
        examples += ", ..."
    return (
        f"{overlap.questions:,} of the {overlap.total:,} questions of {overlap.test} ({examples}) are questions of "
        f"{overlap.train}, which {use}."
    )
