"""
The sentences around the tables of a judged excerpt.

* describe_source       its paper, track and recipe
* describe_corrections  wrong prints, and notes on its systems
* explain_outcomes      kinds, tolerances, warnings and the test
* describe_datasets     the facts behind its numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrobench.data import rules
from retrobench.leaderboard.claims import ClaimedColumn, Excerpt
from retrobench.leaderboard.comparison import Line
from retrobench.leaderboard.reproduce.equivalence import CONFIDENCE
from retrobench.leaderboard.reproduce.recipes import fixed_texts
from retrobench.leaderboard.reproduce.verdicts import JudgedExcerpt, Outcome, describe_kind
from retrobench.leaderboard.tables import format_number, list_facts
from retrobench.scoring import ALPHA, FEWEST_SEEDS

__all__ = ["column_headers", "describe_corrections", "describe_datasets", "describe_source", "explain_outcomes"]

TITLES = {"space": "title and text", "none": "text without titles"}
# Further facts of a dataset, each with its words.
FACTS = {
    "similarity": "{}",
    "precision": "{}",
    "relevance_level": "relevant from grade {}",
    "ties": "ties broken {}",
    "self_hits_removed": "self-hits removed {}",
    "missing": "missing queries {}",
}


def describe_source(excerpt: Excerpt) -> str:
    """Return the paper and the table, and the track with the recipe that measures it."""
    source = f"{excerpt.paper}, {excerpt.source}."
    if not excerpt.track:
        return source
    track = f"Track {excerpt.track}"
    overrides = fixed_texts(excerpt.set)
    if overrides:
        track += f" with {', '.join(overrides)}"
    rounds: dict[str, None] = {}
    for system in excerpt.systems:
        if system.entrant and system.round:
            rounds[system.round] = None
    if rounds:
        track += f", round {' and '.join(rounds)}"
    return f"{source} {track}."


def column_headers(excerpt: Excerpt) -> dict[ClaimedColumn, str]:
    """Return the header of every column: measure, dataset or both, whichever the columns differ in."""
    datasets = {column.dataset for column in excerpt.columns}
    measures = {column.measure for column in excerpt.columns}
    headers = {}
    for column in excerpt.columns:
        if len(datasets) == 1:
            headers[column] = column.measure
        elif len(measures) == 1:
            headers[column] = _label(excerpt, column.dataset)
        else:
            headers[column] = f"{_label(excerpt, column.dataset)} {column.measure}"
    return headers


def _label(excerpt: Excerpt, dataset: str) -> str:
    claimed = excerpt.datasets.get(dataset)
    return claimed.label if claimed and claimed.label else dataset


def describe_corrections(excerpt: Excerpt) -> list[str]:
    """Return a sentence for each wrong print and each note on a system."""
    headers = column_headers(excerpt)
    sentences = []
    wrong_headers = []
    for column in excerpt.columns:
        if column.header:
            wrong_headers.append(f"{column.header} for {headers[column]}")
    if wrong_headers:
        sentences.append(f"Headers as printed: {', '.join(wrong_headers)}.")
    for system in excerpt.systems:
        if system.note:
            sentences.append(f"{system.model}: {system.note}.")
        for cell in system.cells:
            if cell.printed is not None:
                sentences.append(f"* {system.model}, {headers[cell.column]}: printed as {cell.printed}; {cell.note}.")
    return sentences


def explain_outcomes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the sentences behind the verdicts: kinds, tolerances, warnings and the test."""
    measured = [outcome for outcome in outcomes if outcome.line]
    if not measured:
        return []
    sentences = _describe_origins(measured)
    sentences.append("ranx computed the scores, and trec_eval confirmed them query by query.")
    tolerances = dict.fromkeys(outcome.tolerance.reason for outcome in measured if outcome.tolerance)
    sentences += [f"Tolerance for {reason}." for reason in tolerances]
    sentences += _explain_intervals(measured)
    sentences += [_warn_of_height(outcome) for outcome in measured if _is_high(outcome)]
    counts = sorted({outcome.tested_queries for outcome in measured} - {0})
    if counts:
        sentences.append(
            "Letters beside a measured number name the models that it beats: the simultaneous interval over seeds and "
            f"{' or '.join(map(str, counts))} queries excludes 0, for all pairs of a column together, alpha {ALPHA}. "
            f"A letter needs {FEWEST_SEEDS} seeds of each trained model. Every query is a cluster of its own."
        )
    return sentences


def _explain_intervals(measured: Sequence[Outcome]) -> list[str]:
    """Return the sentences about the interval over seeds, single seeds and other draws."""
    sentences = []
    if any(outcome.interval for outcome in measured):
        sentences.append(
            f"Interval: half the width of the {CONFIDENCE:.0%} t interval of the mean over seeds. The questions are "
            "the paper's own, so they are fixed."
        )
    if any(outcome.verdict.endswith("(one seed)") for outcome in measured):
        sentences.append("One seed has no interval: it lies WITHIN or OUTSIDE the tolerance, and settles nothing.")
    if any(".shards=" in outcome.recipe_difference for outcome in measured):
        sentences.append(
            "Rows with another number of shards and the same batch count: their draws differ, not the distribution."
        )
    return sentences


def _is_high(outcome: Outcome) -> bool:
    """Return whether a value is above the published one, beyond the tolerance."""
    if outcome.delta is None or outcome.delta < 0:
        return False
    return outcome.verdict in ("PASS (+)", "OUTSIDE (one seed)")


def _warn_of_height(outcome: Outcome) -> str:
    return (
        f"Warning: {outcome.name} is {outcome.delta:.4f} above the published {outcome.cell.column.name}, more "
        "than the tolerance. Look for a leak or another split before believing it."
    )


def _describe_origins(measured: Sequence[Outcome]) -> list[str]:
    """Return a sentence for each origin of measurements, with the models that share it."""
    models: dict[str, dict[str, None]] = {}
    for outcome in measured:
        if outcome.line:
            models.setdefault(_origin(outcome.line), {})[outcome.name] = None
    return [f"{', '.join(names)}: {origin}." for origin, names in models.items()]


def _origin(line: Line) -> str:
    """Return the kind, seeds, commits and machines of a line."""
    seeds = []
    commits: dict[str, None] = {}
    machines: dict[str, None] = {}
    for row in line.rows:
        seeds.append(format_number(row.seed, "d"))
        commits[row.commit[:10]] = None
        machines[list_facts(row.hardware)] = None
    return f"{describe_kind(line)}; seeds {', '.join(seeds)}; commit {', '.join(commits)}; {'; '.join(machines)}"


def describe_datasets(judged: JudgedExcerpt) -> list[str]:
    """Return the facts of each dataset: the rows' own, or those required of rows where there are none."""
    excerpt, outcomes = judged
    if not excerpt.track:
        return []
    sentences = []
    for dataset in dict.fromkeys(column.dataset for column in excerpt.columns):
        claimed = excerpt.datasets.get(dataset)
        if claimed is None or claimed.reason or not claimed.needs:
            continue
        facts = _row_facts(outcomes, dataset)
        required = "" if facts else " (required of rows)"
        sentences.append(f"Identity of {dataset}: {_describe_facts({**claimed.needs, **facts})}{required}.")
        note = rules.rule(dataset).note
        if note:
            sentences.append(note)
    return sentences


def _row_facts(outcomes: Sequence[Outcome], dataset: str) -> Mapping[str, Any]:
    for outcome in outcomes:
        if outcome.line and outcome.line.rows[0].facts.get(dataset):
            return outcome.line.rows[0].facts[dataset]
    return {}


def _describe_facts(facts: Mapping[str, Any]) -> str:
    texts = []
    for name in ("documents", "queries", "judgements"):
        if name in facts:
            texts.append(f"{_count(facts[name])} {name}")
    for name in ("corpus", "qrels"):
        if name in facts:
            texts.append(f"{name} sha256:{facts[name][:8]}")
    if "titles" in facts:
        separator = facts["titles"]
        texts.append(TITLES.get(separator, f"title {separator} text"))
    if "query_length" in facts:
        texts.append(f"lengths {facts['query_length']}/{facts['passage_length']}")
    for name, words in FACTS.items():
        if name in facts:
            texts.append(words.format(_count(facts[name])))
    return ", ".join(texts)


def _count(value: Any) -> str:
    return f"{value:,}" if type(value) is int else str(value)
