"""Print the plan as one screen of plain text: a line per stage, shortages, and the source of each figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from retrobench.config import Baseline, Experiment, Track, absent_datasets, discover, read_entrant, read_track
from retrobench.core import Column, Table
from retrobench.data import groups
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import locate, track_name
from retrobench.plan import advice, costs, machines
from retrobench.plan.estimate import estimate_needs
from retrobench.plan.formatting import (
    format_bytes,
    format_count,
    format_number,
    format_percent,
    format_plural,
    format_rate,
    format_time,
    wrap,
)
from retrobench.plan.machines import GIB, Machine
from retrobench.plan.needs import ExperimentNeeds, StageNeeds
from retrobench.plan.parts import KNOWN_OBJECTIVES

__all__ = ["plan"]

_SHOWN_FILES = 4


def plan(
    track: str,
    objective: str = "retromae",
    hardware: str = "this",
    gpus: int = 1,
    overrides: Sequence[str] = (),
    leaderboard: Path | None = None,
    plugins: Sequence[Path] = (),
) -> str:
    """
    Return the needs of `retrobench run` for an objective under a track, on `gpus` GPUs of the hardware.

    Nothing is downloaded, and torch is loaded only to measure `this` machine. Raises RetrobenchError for unknown
    names, for several GPUs of a machine without, and for a baseline, which neither trains nor encodes.
    """
    machine = machines.find(hardware, leaderboard)
    if gpus > 1 and not machine.gpu:
        raise RetrobenchError(
            f"--gpus is {gpus}, and this machine has no GPU. Leave it out, or name another --hardware."
        )
    file = locate(track, leaderboard)
    changed_track = read_track(file, track_name(file), overrides)
    recipe = read_track(file, changed_track.name, [])
    entrant = read_entrant(objective, discover(plugins), overrides)
    experiment = Experiment(changed_track, entrant, 0, absent_datasets(changed_track))
    if isinstance(experiment.entrant, Baseline):
        raise RetrobenchError(
            f"{experiment.entrant.name} trains and encodes nothing, so there is nothing to plan. Name an objective."
        )
    local = None
    if hardware != "this":
        local = machines.measure_this_machine(leaderboard)
    page = _Page(experiment, estimate_needs(experiment), recipe, machine, local, gpus)
    return "\n".join(page.lines())


class _Page:
    """Print the paragraphs in order. `local` is this machine if the plan is for another."""

    def __init__(
        self,
        experiment: Experiment,
        needs: ExperimentNeeds,
        recipe: Track,
        machine: Machine,
        local: Machine | None,
        gpus: int,
    ) -> None:
        self.experiment = experiment
        self.needs = needs
        self.recipe = recipe
        self.machine = machine
        self.local = local
        self.gpus = gpus

    def lines(self) -> Iterator[str]:
        yield from wrap(self._title(), indent=0)
        yield ""
        yield self._table().text()
        yield ""
        yield from wrap(self._tests(), "tests")
        yield from wrap(self._downloads(), "downloads")
        yield from wrap(self._disk(), "disk")
        negatives = advice.describe_negatives(self.needs, self.recipe, self.machine, self.gpus)
        yield from wrap(negatives, "negatives")
        yield from self._changes()
        if self.local:
            yield from wrap(self._summarise_local(self.local), "here")
        yield ""
        for note in self._notes():
            yield from wrap(note, "*", 2)

    def _title(self) -> str:
        machine = self.machine
        name = machine.name
        rate = format_rate(machine.peak)
        if self.gpus > 1:
            name = f"{self.gpus} x {name}"
            rate = f"{rate} each"
        return (
            f"{self.experiment.track.name} for {self.experiment.entrant.name} on {name}: "
            f"{machine.memory / GIB:,.0f} GiB, {rate} ({machine.peak_source})"
        )

    def _table(self) -> Table:
        """Return a row for each stage and their total."""
        device = "card GiB" if self.machine.gpu else "model GiB"
        cost_names = ["floor", "expected", device, "host GiB", "store GB"]
        if self.local and self.local.peak:
            cost_names.append("here")
        columns = [Column("stage"), Column("tokens", "right", "number")]
        columns += [Column(name, "right", "cost") for name in cost_names]
        rows = []
        for stage in self.needs.stages:
            tokens = sum(item.tokens for item in stage.items)
            rows.append([stage.name, format_count(tokens), *self._cost_cells([stage])])
        rows.append(["total", "", *self._cost_cells(self.needs.stages)])
        return Table(columns, rows)

    def _cost_cells(self, stages: Sequence[StageNeeds]) -> list[str]:
        """Return the sum of hours, the largest memory and the sum of disk sizes."""
        floors = []
        expected = []
        for stage in stages:
            seconds = costs.estimate_seconds(stage, self.machine, self.gpus)
            floors.append(seconds.floor)
            expected.append(seconds.expected)
        device = max(costs.device_bytes(stage, self.gpus) for stage in stages)
        host = max(stage.host for stage in stages)
        disk = sum(stage.disk for stage in stages)
        cells = [
            format_time(sum(floors)),
            format_time(sum(expected)),
            format_number(device / GIB),
            format_number(host / GIB),
            format_number(disk / 1e9),
        ]
        if self.local and self.local.peak:
            cells.append(format_time(_expected_seconds(stages, self.local)))
        return cells

    def _tests(self) -> str:
        collections = {collection.corpus: collection for collection in self.needs.tested}
        evaluate = self.experiment.track.evaluate
        members: list[str] = []
        for name in (*evaluate.datasets, *evaluate.transfer):
            members += groups.GROUPS[name].members if name in groups.GROUPS else [name]
        test_sets = len(set(members) - self.experiment.absent)
        documents = sum(collection.documents for collection in collections.values())
        corpora = format_plural(len(collections), "collection")
        sets = format_plural(test_sets, "set")
        text = f"{sets} over {corpora} of {documents:,} documents"
        if self.experiment.absent:
            text += f" (not here, so NOT RUN: {', '.join(sorted(self.experiment.absent))})"
        if len(collections) == 1:
            return text
        largest = max(collections.values(), key=lambda collection: collection.documents)
        return f"{text}; the largest: {largest.name}, {largest.documents:,}"

    def _downloads(self) -> str:
        files = sorted(self.needs.missing.items(), key=_largest_first)
        if not files:
            return "none: all files are here"
        largest = []
        for address, size in files[:_SHOWN_FILES]:
            largest.append(f"{_short_name(address)} {format_bytes(size)}")
        total = format_bytes(sum(self.needs.missing.values()))
        text = f"{total} in {len(files)} files: {', '.join(largest)}"
        if len(files) > _SHOWN_FILES:
            text += f" and {len(files) - _SHOWN_FILES} smaller ones"
        corpora = [collection.corpus for collection in self.needs.collections if collection.to_build]
        if corpora:
            distinct_corpora = dict.fromkeys(corpora)
            text += f". Build from them: retrobench data fetch {', '.join(distinct_corpora)}"
        return text

    def _disk(self) -> str:
        total = advice.disk_bytes(self.needs)
        store = sum(stage.disk for stage in self.needs.stages)
        checkpoints = advice.checkpoint_bytes(self.needs)
        sizes = {
            "in the store": store,
            "of checkpoints": checkpoints,
            "of downloads and collections built from them": total - store - checkpoints,
        }
        described = []
        for name, size in sizes.items():
            if size:
                described.append(f"{format_bytes(size)} {name}")
        return f"{format_bytes(total)}: {', '.join(described)}"

    def _changes(self) -> Iterator[str]:
        changes = list(advice.suggest_changes(self.needs, self.experiment.track, self.machine, self.gpus))
        if not changes:
            changes = ["nothing: all of it fits"]
        label = "to change"
        for change in changes:
            yield from wrap(change, label)
            label = ""

    def _summarise_local(self, local: Machine) -> str:
        """Return the needs on this machine if the plan is for another."""
        machine = f"{local.name}, {local.memory / GIB:,.0f} GiB"
        if not local.peak:
            return f"{machine}: its rate is unknown; --hardware this measures it"
        expected = format_time(_expected_seconds(self.needs.stages, local))
        rate = f"{format_rate(local.peak)} ({local.peak_source})"
        shortage = advice.summarise_shortage(self.needs, local)
        verdict = "all of it fits"
        if shortage:
            verdict = f"too little {shortage}"
        return f"{machine}: {expected} expected, with {rate}; {verdict}"

    def _notes(self) -> Iterator[str]:
        yield self._expected_note()
        if self.local and not self.local.gpu:
            shares = self.local.shares
            yield f"here: {format_percent(shares.pretrain)} of its peak ({shares.source})"
        yield "tokenise: floor 1.2 M tokens/s, the most seen on two cores; expected 0.18 M, as in mini's rows"
        if self.machine.gpu:
            share = format_percent(costs.SEARCHING_ON_GPU)
            yield f"mine, test: exact search at {share} of the peak, an aim without a measurement"
        else:
            yield f"mine, test: exact search at {costs.SEARCHING / 1e9:.0f} GFLOP/s a core, as once on two EPYC cores"
        yield "card: 18 bytes a parameter; 68 a token, layer and unit of width (arXiv:2205.05198, doubled)"
        objective = self.experiment.entrant.kind
        if self.experiment.pretraining and objective not in KNOWN_OBJECTIVES:
            yield f"{objective}: assumed to cost as much as masked language modelling"
        if self.gpus > 1:
            yield "several cards: each has a process that trains, encodes and searches; one does the rest. Never tried"
        if self.machine.warning:
            yield self.machine.warning
        yield "not counted: making collections, scoring, and other work on the machine"
        assumptions = dict.fromkeys(self.needs.assumed)
        for collection in self.needs.collections:
            assumptions[collection.basis] = None
        yield from assumptions

    def _expected_note(self) -> str:
        shares = self.machine.shares
        pretrain = format_percent(shares.pretrain)
        finetune = format_percent(shares.finetune)
        encode = format_percent(shares.encode)
        reached = f"{pretrain} in pre-training, {finetune} in fine-tuning, {encode} in encoding"
        if shares.pretrain == shares.finetune == shares.encode:
            reached = encode
        return f"expected: floor / {reached} ({shares.source}) / share of real tokens in a batch"


def _expected_seconds(stages: Sequence[StageNeeds], machine: Machine) -> float:
    return sum(costs.estimate_seconds(stage, machine).expected for stage in stages)


def _largest_first(file: tuple[str, int]) -> tuple[int, str]:
    address, size = file
    return -size, address


def _short_name(address: str) -> str:
    """Return the last two segments of an address."""
    return "/".join(address.split("/")[-2:])
