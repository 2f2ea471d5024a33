"""
Facts that follow from an excerpt's claims.

* measuring_commands   the commands that would measure its systems
* derive_means         the means over BEIR's public sets, which no paper prints
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from retrobench.data import groups
from retrobench.leaderboard.claims import ClaimedColumn, Excerpt, System
from retrobench.leaderboard.reproduce.recipes import fixed_texts
from retrobench.leaderboard.reproduce.verdicts import JudgedExcerpt, Outcome

__all__ = ["PUBLIC_SETS", "DerivedMean", "derive_means", "measuring_commands"]

PUBLIC_SETS = 14  # of BEIR
SEEDS = (1, 2, 3)


class DerivedMean(NamedTuple):
    """A mean of printed cells that the paper does not print."""

    model: str
    published: float
    measured: float | None


def measuring_commands(excerpt: Excerpt) -> tuple[str, ...]:
    """Return the commands that would measure an excerpt: its replications, then those from the authors' checkpoints."""
    if not excerpt.track:
        return ()
    replications: dict[tuple[str, ...], list[str]] = {}  # overrides -> entrants
    reproductions: dict[tuple[str, ...], list[str]] = {}
    for system in excerpt.systems:
        if not system.entrant:
            continue
        overrides = fixed_texts((*excerpt.set, *system.set))
        replications.setdefault(overrides, []).append(system.entrant)
        if system.checkpoint:
            overrides = (*overrides, f"entrant.checkpoint={system.checkpoint}")
            reproductions.setdefault(overrides, []).append(system.entrant)
    groups = [*replications.items(), *reproductions.items()]
    return tuple(_command(excerpt.track, entrants, overrides) for overrides, entrants in groups)


def _command(track: str, entrants: Iterable[str], overrides: Iterable[str]) -> str:
    words = ["retrobench", "run", "--track", track]
    for entrant in dict.fromkeys(entrants):
        words += ["--objective", entrant]
    for override in overrides:
        words += ["--set", override]
    for seed in SEEDS:
        words += ["--seed", str(seed)]
    return shlex.join(words)


def derive_means(judged: JudgedExcerpt) -> list[DerivedMean]:
    """Return the mean over BEIR's public sets of each model that has all of them."""
    excerpt, outcomes = judged
    columns = [column for column in excerpt.columns if column.dataset.startswith("beir/")]
    if len(columns) != PUBLIC_SETS:
        return []
    means = []
    for system in excerpt.systems:
        published = _published(system, columns)
        if len(published) == PUBLIC_SETS:
            measured = _measured_mean(system, outcomes, columns[0].measure)
            means.append(DerivedMean(system.model, statistics.fmean(published), measured))
    return means


def _published(system: System, columns: Sequence[ClaimedColumn]) -> list[float]:
    numbers = []
    for cell in system.cells:
        if cell.column in columns and cell.published is not None:
            numbers.append(cell.published)
    return numbers


def _measured_mean(system: System, outcomes: Iterable[Outcome], measure: str) -> float | None:
    for outcome in outcomes:
        if outcome.system is system and outcome.line:
            return outcome.line.mean(groups.GROUPS["beir"].average, measure)
    return None
