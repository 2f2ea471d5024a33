"""The plan as one screen of plain text: a line per stage, what is short, and where the figures come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from retrobench.config import Baseline, Experiment, Track, discover, read_entrant, read_track
from retrobench.core import Column, Table
from retrobench.data import rules
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import locate, track_name
from retrobench.plan import advice, costs, machines, words
from retrobench.plan.arithmetic import KNOWN_OBJECTIVES
from retrobench.plan.machines import GIB, Machine
from retrobench.plan.work import Needs, Stage, needs_of

__all__ = ["plan"]


def plan(
    track: str,
    objective: str = "retromae",
    hardware: str = "this",
    gpus: int = 1,
    overrides: Sequence[str] = (),
    leaderboard: Path | None = None,
) -> str:
    """What `retrobench run` would need for an objective under a track, on `gpus` cards of the hardware.

    Nothing is downloaded, and torch is loaded only to measure `this` machine. RetrobenchError for unknown names, for
    several GPUs of a machine without, and for a baseline, which neither trains nor encodes.
    """
    machine = machines.find(hardware, leaderboard)
    if gpus > 1 and not machine.gpu:
        raise RetrobenchError(
            f"--gpus is {gpus}, and this machine has no GPU. Leave it out, or name another --hardware."
        )
    file = locate(track, leaderboard)
    read = read_track(file, track_name(file), overrides)
    recipe = read_track(file, read.name, [])
    x = Experiment(read, read_entrant(objective, discover(), overrides), 0)
    if isinstance(x.entrant, Baseline):
        raise RetrobenchError(
            f"{x.entrant.name} trains and encodes nothing, so there is nothing to plan. Name an objective."
        )
    here = None if hardware == "this" else machines.this(leaderboard)
    return "\n".join(_Page(x, needs_of(x), recipe, machine, here, gpus).lines())


class _Page:
    """The parts of the screen in order. `here` is this machine, where another is planned for."""

    def __init__(
        self, x: Experiment, needs: Needs, recipe: Track, machine: Machine, here: Machine | None, gpus: int
    ) -> None:
        self.x, self.needs, self.recipe = x, needs, recipe
        self.machine, self.here, self.gpus = machine, here, gpus

    def lines(self) -> Iterator[str]:
        yield from words.wrapped(self._title(), indent=0)
        yield ""
        yield self._table().text()
        yield ""
        yield from words.wrapped(self._data(), "tests")
        yield from words.wrapped(self._downloads(), "downloads")
        yield from words.wrapped(self._disk(), "disk")
        yield from words.wrapped(advice.negatives(self.needs, self.recipe, self.machine, self.gpus), "negatives")
        short = list(advice.changes(self.needs, self.x.track, self.machine, self.gpus))
        for number, text in enumerate(short or ["nothing: all of it fits"]):
            yield from words.wrapped(text, "" if number else "to change")
        yield from words.wrapped(self._beside(), "here") if self.here else ()
        yield ""
        for note in self._notes():
            yield from words.wrapped(note, "*", 2)

    def _title(self) -> str:
        machine, cards = self.machine, f"{self.gpus} x " if self.gpus > 1 else ""
        each = " each" if cards else ""
        return (
            f"{self.x.track.name} for {self.x.entrant.name} on {cards}{machine.name}: {machine.memory / GIB:,.0f} GiB, "
            f"{words.rate(machine.peak)}{each} ({machine.peak_source})"
        )

    def _table(self) -> Table:
        """Return a row for each stage and their total."""
        columns = [Column("stage"), Column("tokens", "right", "number")]
        device = "card GiB" if self.machine.gpu else "model GiB"
        costs = ["floor", "expected", device, "host GiB", "store GB"]
        if self.here and self.here.peak:
            costs.append("here")
        columns += [Column(name, "right", "cost") for name in costs]
        rows = []
        for stage in self.needs.stages:
            tokens = sum(work.tokens for work in stage.works)
            rows.append([stage.name, words.count(tokens), *self._row([stage])])
        return Table(columns, [*rows, ["total", "", *self._row(self.needs.stages)]])

    def _row(self, stages: Sequence[Stage]) -> list[str]:
        """Hours added up, the largest memory, disk added up."""
        spent = [costs.seconds(stage, self.machine, self.gpus) for stage in stages]
        cells = [words.time(sum(of.floor for of in spent)), words.time(sum(of.expected for of in spent))]
        cells.append(words.small(max(costs.need(stage, self.gpus) for stage in stages) / GIB))
        cells.append(words.small(max(stage.host for stage in stages) / GIB))
        cells.append(words.small(sum(stage.disk for stage in stages) / 1e9))
        if self.here and self.here.peak:
            cells.append(words.time(sum(costs.seconds(stage, self.here).expected for stage in stages)))
        return cells

    def _data(self) -> str:
        tested = {found.corpus: found for found in self.needs.tested}
        sets = sum(len(rules.GROUPS.get(name, (name,))) for name in self.x.track.evaluate.datasets)
        largest = max(tested.values(), key=lambda found: found.documents)
        documents = sum(found.documents for found in tested.values())
        text = f"{words.plural(sets, 'set')} over {words.plural(len(tested), 'collection')} of {documents:,} documents"
        return text + (f"; the largest: {largest.name}, {largest.documents:,}" if len(tested) > 1 else "")

    def _downloads(self) -> str:
        files = sorted(self.needs.missing.items(), key=lambda item: (-item[1], item[0]))
        if not files:
            return "none: all of it is here"
        shown = [f"{'/'.join(name.split('/')[-2:])} {words.size(size)}" for name, size in files]
        listed = ", ".join(shown[:4]) + (f" and {len(shown) - 4} smaller ones" if len(shown) > 4 else "")
        text = f"{words.size(sum(size for _, size in files))} in {len(files)} files: {listed}"
        made = dict.fromkeys(found.corpus for found in self.needs.collections if found.made)
        return text + (f". To be made of them: retrobench data fetch {', '.join(made)}" if made else "")

    def _disk(self) -> str:
        whole = advice.space(self.needs)
        store, passing = sum(stage.disk for stage in self.needs.stages), advice.passing(self.needs)
        parts = {"in the store": store, "of checkpoints": passing}
        parts["of downloads and what is made of them"] = whole - store - passing
        return f"{words.size(whole)}: " + ", ".join(
            f"{words.size(part)} {name}" for name, part in parts.items() if part
        )

    def _beside(self) -> str:
        """What this machine would need, where another is planned for."""
        here = self.here
        assert here is not None
        hours = sum(costs.seconds(stage, here).expected for stage in self.needs.stages)
        text = f"{here.name}, {here.memory / GIB:,.0f} GiB: "
        if not here.peak:
            return f"{text}its rate is not known; --hardware this measures it"
        text += f"{words.time(hours)} expected, with {words.rate(here.peak)} ({here.peak_source})"
        short = advice.short_of(self.needs, here)
        return f"{text}; too little {short}" if short else f"{text}; all of it fits"

    def _notes(self) -> Iterator[str]:
        machine, shares = self.machine, self.machine.shares
        each = {"pre-training": shares.pretrain, "fine-tuning": shares.finetune, "encoding": shares.encode}
        parts = [f"{words.percent(share)} in {name}" for name, share in each.items()]
        reached = words.percent(shares.encode) if len({*each.values()}) == 1 else ", ".join(parts)
        yield f"expected: floor / {reached} ({shares.source}) / share of real tokens in a batch"
        if self.here and not self.here.gpu:
            yield f"here: {words.percent(self.here.shares.pretrain)} of its peak ({self.here.shares.source})"
        yield "tokenise: floor 1.2 M tokens/s, the most seen on two cores; expected 0.18 M, as in mini's rows"
        if machine.gpu:
            share = words.percent(costs.SEARCHING_ON_GPU)
            yield f"mine, test: exact search at {share} of the peak, which nobody measured"
        else:
            yield f"mine, test: exact search at {costs.SEARCHING / 1e9:.0f} GFLOP/s a core, as once on two EPYC cores"
        yield "card: 18 bytes a parameter; 68 a token, layer and unit of width (arXiv:2205.05198, doubled)"
        objective = self.x.entrant.kind
        if self.x.pretraining and objective not in KNOWN_OBJECTIVES:
            yield f"{objective}: taken to cost what masked language modelling does"
        if self.gpus > 1:
            yield "several cards: a process each trains, encodes and searches exactly; one does the rest. Never tried"
        if machine.warning:
            yield machine.warning
        yield "not counted: making collections, scoring, and what other work the machine does"
        yield from dict.fromkeys((*self.needs.assumed, *(found.basis for found in self.needs.collections)))
