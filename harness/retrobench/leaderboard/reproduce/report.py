"""
A judged table for a reader: what was measured cell by cell, what was published model by model, and all that the
numbers depend on, in sentences made from the rows and the claims.
"""

from __future__ import annotations

import shlex
import statistics
import string
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from retrobench.data import rules
from retrobench.leaderboard.cells import Commands, Grid, Section, spread
from retrobench.leaderboard.claims import Column, Part
from retrobench.leaderboard.comparison import Line
from retrobench.leaderboard.reproduce.verdicts import VERDICTS, Judged, kind
from retrobench.scoring import ALPHA

if TYPE_CHECKING:
    from retrobench.leaderboard.reproduce.records import Listed

__all__ = ["closing", "commands", "derived", "listed", "section", "wrapped"]

WIDTH = 100  # letters in a line of published numbers
PUBLIC = 14  # sets of BEIR
KINDS = (
    "Kinds are those of ACM's badging policy v1.1: a reproduction uses what the authors released, a replication is "
    "made anew by others. v1.0 had the two words the other way round."
)


class Derived(NamedTuple):
    """A mean that the paper does not print, of cells that it does."""

    model: str
    published: float
    measured: float | None


def section(part: Part, judged: Sequence[Judged]) -> Section:
    """A part of a table: measured cells first, then every published one, then what they depend on."""
    numbers = _numbered(judged)
    marked = any(each.line for each in judged)
    parts: list[Grid | Commands | str] = [_source(part)]
    parts += [_measured(part, judged)] if marked else []
    parts += _published(part, judged, numbers)
    parts += [f"[{number}] {text}." for text, number in numbers.items()]
    parts += _corrected(part)
    parts += [part.note] if part.note else []
    parts += _explained(judged)
    parts += _means(derived(part, judged))
    parts += _identity(part, judged)
    parts += [Commands(commands(part))] if commands(part) else []
    return Section(f"{part.id}: {part.title}", tuple(parts))


def wrapped(section: Section) -> Section:
    """The same with its sentences as long as a terminal is wide."""
    parts = (
        textwrap.fill(part, WIDTH, break_on_hyphens=False) if isinstance(part, str) else part for part in section.parts
    )
    return Section(section.heading, tuple(parts))


def closing(judged: Sequence[Judged], code: int | None, format: str, unclaimed: Sequence[str] = ()) -> str:
    """How many cells have which verdict, what the shell will see, and which rows given were of no use."""
    counts = Counter(each.verdict for each in judged)
    text = f"Of {len(judged)} cells {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}."
    text += f" Exit code {code}." if code is not None else ""
    text += f" Rows that measure nothing here: {', '.join(unclaimed)}." if unclaimed else ""
    lines = textwrap.wrap(f"{text} {KINDS}", WIDTH, break_on_hyphens=False) if format == "text" else [text, KINDS]
    return "\n".join(f"% {line}" if format == "latex" else line for line in lines)


def listed(lines: Sequence[Listed]) -> list[Section]:
    """All tables by paper, a line for each part of a table."""
    papers: dict[str, list[Listed]] = {}
    for line in lines:
        papers.setdefault(line.table.parts[0].paper, []).append(line)
    header = ["table", "what", "track", "cells", *VERDICTS]
    found = []
    for paper, of in papers.items():
        body = [
            [line.table.id, part.title, part.track or "-", str(sum(len(system.cells) for system in part.systems))]
            + (["-"] * len(VERDICTS) if line.refused else [str(counts[verdict]) for verdict in VERDICTS])
            for line in of
            for part, counts in zip(line.table.parts, line.counts, strict=True)
        ]
        found.append(
            Section(paper, (Grid(header, body, 3), *(f"Refused: {line.refused}" for line in of if line.refused)))
        )
    hint = "`retrobench reproduce TABLE` prints one: published, measured, difference, tolerance and verdict."
    return [*found[:-1], Section(found[-1].heading, (*found[-1].parts, hint))]


def commands(part: Part) -> tuple[str, ...]:
    """What would measure the part: a replication for each recipe in it, and then from the authors' checkpoints."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for system in part.systems:
        plain = tuple(text for text in (*part.set, *system.set) if not text.endswith("=*"))
        for extra in ((), (f"entrant.checkpoint={system.checkpoint}",) if system.checkpoint else None):
            if system.entrant and extra is not None:
                groups.setdefault((*plain, *extra), []).append(system.entrant)
    order = sorted(groups, key=lambda sets: any(text.startswith("entrant.checkpoint=") for text in sets))
    found = []
    for sets in order if part.track else ():
        words = ["retrobench", "run", "--track", part.track]
        words += [word for entrant in dict.fromkeys(groups[sets]) for word in ("--objective", entrant)]
        words += [word for text in sets for word in ("--set", text)]
        found.append(shlex.join([*words, *(word for seed in "123" for word in ("--seed", seed))]))
    return tuple(found)


def derived(part: Part, judged: Sequence[Judged]) -> list[Derived]:
    """The mean over BEIR's public sets for each model that has them all: no paper prints it."""
    public = [column for column in part.columns if column.dataset.startswith("beir/")]
    found = []
    for system in part.systems if len(public) == PUBLIC else ():
        values = [cell.published for cell in system.cells if cell.column in public and cell.published is not None]
        line = next((each.line for each in judged if each.system is system and each.line), None)
        if len(values) == PUBLIC:
            measured = line.mean(rules.MEANS["beir"], public[0].measure) if line else None
            found.append(Derived(system.model, statistics.fmean(values), measured))
    return found


def _numbered(judged: Sequence[Judged]) -> dict[str, int]:
    """The reasons for what is not run or not comparable, numbered in the order of the cells."""
    texts = dict.fromkeys(f"{each.verdict}: {each.reason}" for each in judged if each.reason)
    return {text: number for number, text in enumerate(texts, 1)}


def _source(part: Part) -> str:
    if not part.track:
        return f"{part.paper}, {part.source}."
    sets = [text for text in part.set if not text.endswith("=*")]
    rounds = dict.fromkeys(system.round for system in part.systems if system.round and system.entrant)
    how = (" with " + ", ".join(sets) if sets else "") + (", round " + " and ".join(rounds) if rounds else "")
    return f"{part.paper}, {part.source}. Track {part.track}{how}."


def _label(part: Part, column: Column) -> str:
    known = part.datasets.get(column.dataset)
    return known.label if known and known.label else column.dataset


def _heads(part: Part) -> dict[Column, str]:
    """What stands above a column: as much of dataset and measure as tells it from the others."""
    datasets = {column.dataset for column in part.columns}
    measures = {column.measure for column in part.columns}
    return {
        column: column.measure
        if len(datasets) == 1
        else _label(part, column) + (f" {column.measure}" if len(measures) > 1 else "")
        for column in part.columns
    }


def _measured(part: Part, judged: Sequence[Judged]) -> Grid:
    heads = _heads(part)
    having = [each for each in judged if each.line]
    names = list(dict.fromkeys(each.name for each in having))
    letters = {name: string.ascii_letters[place % 52] for place, name in enumerate(names)}
    header = ["", "model", "", "published", "measured", "delta", "tolerance", "verdict", "seeds", "queries", "note"]
    body = [
        [
            letters[each.name],
            each.name,
            heads[each.cell.column],
            _number(part, each.cell.published),
            spread(each.measured, each.deviation),
            "-" if each.delta is None else f"{each.delta:+.4f}",
            f"{each.tolerance.value:.4f}" if each.tolerance else "-",
            each.verdict,
            str(len(each.line.rows)) if each.line else "-",
            "-" if each.queries is None else str(each.queries),
            each.unlike,
        ]
        for each in having
    ]
    marks = tuple("".join(letters[name] for name in each.beats) for each in having)
    return Grid(header, body, 3, marks if any(marks) else (), 4, (7, 10))


def _published(part: Part, judged: Sequence[Judged], numbers: Mapping[str, int]) -> Iterator[Grid]:
    """A model a line; as many columns side by side as a terminal holds, the rest below."""
    heads, names = _heads(part), [system.model for system in part.systems]
    by_cell = {(each.system.model, each.cell.column): each for each in judged}
    room = WIDTH - max(map(len, names)) - 18
    columns, used = [list[Column]()], 0
    for column in part.columns:
        wide = max(len(heads[column]), 6) + 1
        if columns[-1] and used + wide > room:
            columns, used = [*columns, []], 0
        columns[-1].append(column)
        used += wide
    for block in columns:
        body = []
        for model in names:
            cells = [by_cell[model, column] for column in block]
            counts = Counter(
                each.verdict for each in judged if each.system.model == model and each.cell.column in block
            )
            verdicts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
            why = dict.fromkeys(numbers[f"{each.verdict}: {each.reason}"] for each in cells if each.reason)
            values = [
                _number(part, each.cell.published) + ("*" if each.cell.printed is not None else "") for each in cells
            ]
            shown = next(iter(counts)) if len(counts) == 1 else ", ".join(verdicts)
            body.append([model, *values, shown, " ".join(f"[{number}]" for number in why)])
        last = len(block) + 1
        yield Grid(["model", *(heads[column] for column in block), "verdict", "why"], body, 1, texts=(last, last + 1))


def _number(part: Part, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if part.fractions else f"{value:g}"


def _corrected(part: Part) -> list[str]:
    """Where the print is wrong, and what else is known of a line."""
    heads = _heads(part)
    wrong = [f"{column.header} for {heads[column]}" for column in part.columns if column.header]
    text = [f"Headers as printed: {', '.join(wrong)}."] if wrong else []
    for system in part.systems:
        text += [f"{system.model}: {system.note}."] if system.note else []
        for cell in system.cells:
            if cell.printed is not None:
                text.append(f"* {system.model}, {heads[cell.column]}: printed as {cell.printed}; {cell.note}.")
    return text


def _explained(judged: Sequence[Judged]) -> list[str]:
    """What the verdicts rest on: kinds, tolerances, warnings, tests."""
    measured = [each for each in judged if each.line]
    made: dict[str, list[str]] = {}
    for each in measured:
        of = made.setdefault(_made(each.line) if each.line else "", [])
        of += [each.name] if each.name not in of else []
    text = [f"{', '.join(names)}: {how}." for how, names in made.items()]
    text += ["Scores are ranx's, each checked against trec_eval query by query."] if measured else []
    reasons = dict.fromkeys(each.tolerance.reason for each in measured if each.tolerance)
    text += [f"Tolerance for {reason}." for reason in reasons]
    for each in measured:
        if each.verdict == "PASS (+)" and each.delta is not None:
            text.append(
                f"Warning: {each.name} is {each.delta:.4f} above the published {each.cell.column.name}, more "
                "than the tolerance. Look for a leak or another split before believing it."
            )
    if any(each.over for each in measured):
        over = sorted({each.over for each in measured if each.over})
        text.append(
            f"Letters beside a measured number name the models it beats: paired two-sided t-test over "
            f"{' or '.join(map(str, over))} queries, seeds averaged first, p Holm-corrected within each column, "
            f"alpha {ALPHA}."
        )
    return text


def _made(line: Line) -> str:
    rows = line.rows
    seeds = ", ".join("-" if row.seed is None else str(row.seed) for row in rows)
    commits = ", ".join(dict.fromkeys(row.commit[:10] for row in rows))
    machines = dict.fromkeys(", ".join(f"{name} {value}" for name, value in row.hardware.items()) for row in rows)
    return f"{kind(line)}; seeds {seeds}; commit {commits}; {'; '.join(machines)}"


def _means(means: Sequence[Derived]) -> list[Grid | Commands | str]:
    if not means:
        return []
    body = [
        [mean.model, f"{mean.published:.4f}", "-" if mean.measured is None else f"{mean.measured:.4f}"]
        for mean in means
    ]
    return [
        f"Derived, not printed by the paper: the mean of its {PUBLIC} cells of public sets. It has no verdict.",
        Grid(["model", "mean of 14 cells", "measured"], body, 1),
    ]


def _identity(part: Part, judged: Sequence[Judged]) -> list[str]:
    """For each dataset what its numbers are of: what the rows say, else what rows would have to say."""
    text, asked = [], dict.fromkeys(column.dataset for column in part.columns)
    for dataset in asked if part.track else ():
        known = part.datasets.get(dataset)
        if known is None or known.reason or not known.needs:
            continue
        facts = [each.line.rows[0].facts.get(dataset) for each in judged if each.line]
        said = next((each for each in facts if each), None)
        text.append(
            f"Identity of {dataset}: {_facts({**known.needs, **(said or {})})}{'' if said else ' (asked for)'}."
        )
        note = rules.rule(dataset).note
        text += [note] if note else []
    return text


def _facts(facts: Mapping[str, Any]) -> str:
    def of(name: str, words: str) -> list[str]:
        return [words.format(f"{facts[name]:,}" if type(facts[name]) is int else facts[name])] if name in facts else []

    titles = {"space": "title and text", "none": "text without titles"}.get(facts.get("titles", ""), "title [SEP] text")
    lengths = [f"lengths {facts['query_length']}/{facts['passage_length']}"] if "query_length" in facts else []
    hashes = [f"{name} sha256:{facts[name][:8]}" for name in ("corpus", "qrels") if name in facts]
    return ", ".join(
        [
            *of("documents", "{} documents"),
            *of("queries", "{} queries"),
            *of("judgements", "{} judgements"),
            *hashes,
            *([titles] if "titles" in facts else []),
            *lengths,
            *of("similarity", "{}"),
            *of("precision", "{}"),
            *of("relevance_level", "relevant from grade {}"),
            *of("ties", "ties broken {}"),
            *of("self_hits_removed", "self-hits removed {}"),
            *of("missing", "missing queries {}"),
        ]
    )
