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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from retrobench.core import Column, Table
from retrobench.data import rules
from retrobench.leaderboard.cells import Commands, Section, spread
from retrobench.leaderboard.claims import ClaimedColumn, Part
from retrobench.leaderboard.comparison import Line
from retrobench.leaderboard.reproduce.verdicts import VERDICTS, Judged, Tally, kind
from retrobench.scoring import ALPHA

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
    """Return a part of a table: measured cells, then every published one, then the facts they depend on."""
    numbers = _numbered(judged)
    marked = any(each.line for each in judged)
    blocks: list[Table | Commands | str] = [_source(part)]
    blocks += [_measured(part, judged)] if marked else []
    blocks += _published(part, judged, numbers)
    blocks += [f"[{number}] {text}." for text, number in numbers.items()]
    blocks += _corrected(part)
    blocks += [part.note] if part.note else []
    blocks += _explained(judged)
    blocks += _means(derived(part, judged))
    blocks += _identity(part, judged)
    blocks += [Commands(commands(part))] if commands(part) else []
    return Section(f"{part.id}: {part.title}", tuple(blocks))


def wrapped(section: Section) -> Section:
    """Return the section with its sentences folded to the width of a terminal."""
    blocks: list[Table | Commands | str] = []
    for block in section.blocks:
        blocks.append(textwrap.fill(block, WIDTH, break_on_hyphens=False) if isinstance(block, str) else block)
    return Section(section.heading, tuple(blocks))


def closing(judged: Sequence[Judged], code: int | None, format: str, unclaimed: Sequence[str] = ()) -> str:
    """How many cells have which verdict, what the shell will see, and which rows given were of no use."""
    counts = Counter(each.verdict for each in judged)
    text = f"Of {len(judged)} cells {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}."
    text += f" Exit code {code}." if code is not None else ""
    text += f" Rows that measure nothing here: {', '.join(unclaimed)}." if unclaimed else ""
    lines = textwrap.wrap(f"{text} {KINDS}", WIDTH, break_on_hyphens=False) if format == "text" else [text, KINDS]
    return "\n".join(f"% {line}" if format == "latex" else line for line in lines)


def listed(tallies: Sequence[Tally]) -> list[Section]:
    """Return a section for each paper, with a row for each part of a table."""
    papers: dict[str, list[Tally]] = {}
    for tally in tallies:
        papers.setdefault(tally.table.parts[0].paper, []).append(tally)
    sections = []
    for paper, group in papers.items():
        refused = [f"Refused: {tally.refused}" for tally in group if tally.refused]
        sections.append(Section(paper, (_tallied(group), *refused)))
    hint = "`retrobench reproduce TABLE` prints one: published, measured, difference, tolerance and verdict."
    *before, last = sections
    return [*before, Section(last.heading, (*last.blocks, hint))]


def _tallied(tallies: Sequence[Tally]) -> Table:
    columns = [Column("table"), Column("what"), Column("track"), Column("cells", "right", "number")]
    columns += [Column(verdict, "right", "number") for verdict in VERDICTS]
    rows = []
    for tally in tallies:
        for part, counts in zip(tally.table.parts, tally.counts, strict=True):
            cells = sum(len(system.cells) for system in part.systems)
            verdicts = ["-" if tally.refused else str(counts[verdict]) for verdict in VERDICTS]
            rows.append([tally.table.id, part.title, part.track or "-", str(cells), *verdicts])
    return Table(columns, rows)


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


def _label(part: Part, column: ClaimedColumn) -> str:
    known = part.datasets.get(column.dataset)
    return known.label if known and known.label else column.dataset


def _heads(part: Part) -> dict[ClaimedColumn, str]:
    """Return the header of every column: as much of dataset and measure as tells it from the others."""
    datasets = {column.dataset for column in part.columns}
    measures = {column.measure for column in part.columns}
    return {
        column: column.measure
        if len(datasets) == 1
        else _label(part, column) + (f" {column.measure}" if len(measures) > 1 else "")
        for column in part.columns
    }


def _measured(part: Part, judged: Sequence[Judged]) -> Table:
    """Return a row for each measured cell."""
    measured = [each for each in judged if each.line]
    names = dict.fromkeys(each.name for each in measured)
    letters = {name: string.ascii_letters[index % 52] for index, name in enumerate(names)}
    columns = [
        Column(""),
        Column("model"),
        Column(""),
        Column("published", "right", "measure"),
        Column("measured", "right", "measure"),
        Column("beats", "right", "marks"),
        Column("delta", "right", "measure"),
        Column("tolerance", "right", "measure"),
        Column("verdict"),
        Column("seeds", "right", "number"),
        Column("queries", "right", "number"),
        Column("note"),
    ]
    table = Table(columns, [_measured_row(part, each, letters) for each in measured])
    return table if any(each.beats for each in measured) else table.without("marks")


def _measured_row(part: Part, each: Judged, letters: Mapping[str, str]) -> list[str]:
    return [
        letters[each.name],
        each.name,
        _heads(part)[each.cell.column],
        _number(part, each.cell.published),
        spread(each.measured, each.deviation),
        "".join(letters[name] for name in each.beats),
        "-" if each.delta is None else f"{each.delta:+.4f}",
        f"{each.tolerance.value:.4f}" if each.tolerance else "-",
        each.verdict,
        str(len(each.line.rows)) if each.line else "-",
        "-" if each.queries is None else str(each.queries),
        each.unlike,
    ]


def _published(part: Part, judged: Sequence[Judged], numbers: Mapping[str, int]) -> list[Table]:
    """Return a row for each model, in as many tables as it takes for a terminal to hold the columns."""
    heads = _heads(part)
    tables = []
    for block in _blocks(part, heads):
        columns = [Column("model"), *(Column(heads[column], "right", "measure") for column in block)]
        columns += [Column("verdict"), Column("why")]
        rows = []
        for system in part.systems:
            cells = [each for each in judged if each.system.model == system.model and each.cell.column in block]
            rows.append(_published_row(part, block, cells, numbers))
        tables.append(Table(columns, rows))
    return tables


def _blocks(part: Part, heads: Mapping[ClaimedColumn, str]) -> list[list[ClaimedColumn]]:
    """Cut the columns into blocks that fit beside the models."""
    room = WIDTH - max(len(system.model) for system in part.systems) - 18
    blocks: list[list[ClaimedColumn]] = [[]]
    used = 0
    for column in part.columns:
        width = max(len(heads[column]), 6) + 1
        if blocks[-1] and used + width > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += width
    return blocks


def _published_row(
    part: Part, block: Sequence[ClaimedColumn], cells: Sequence[Judged], numbers: Mapping[str, int]
) -> list[str]:
    """Return the numbers of one model, its verdicts, and where the reasons stand."""
    by_column = {each.cell.column: each for each in cells}
    values, reasons = [], []
    for column in block:
        each = by_column[column]
        correction = "" if each.cell.printed is None else "*"
        values.append(_number(part, each.cell.published) + correction)
        if each.reason:
            number = numbers[f"{each.verdict}: {each.reason}"]
            reasons.append(f"[{number}]")
    return [cells[0].system.model, *values, _verdicts(cells), " ".join(dict.fromkeys(reasons))]


def _verdicts(cells: Sequence[Judged]) -> str:
    """Return the verdict that all cells share, or the number of cells with each."""
    counts = Counter(each.verdict for each in cells)
    if len(counts) == 1:
        return cells[0].verdict
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


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


def _means(means: Sequence[Derived]) -> list[Table | Commands | str]:
    if not means:
        return []
    columns = [Column("model"), Column("mean of 14 cells", "right", "measure"), Column("measured", "right", "measure")]
    rows = []
    for mean in means:
        measured = "-" if mean.measured is None else f"{mean.measured:.4f}"
        rows.append([mean.model, f"{mean.published:.4f}", measured])
    sentence = f"Derived, not printed by the paper: the mean of its {PUBLIC} cells of public sets. It has no verdict."
    return [sentence, Table(columns, rows)]


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
