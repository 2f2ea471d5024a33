"""
Probes of pre-trainings: term coverage and retrieval at the checkpoints of a run, from the curves beside its row.

* Probed           the probes of one row
* read_probed      the rows of a board whose curves hold probes
* probed_sections  a section about them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retrobench.core import Column, Table
from retrobench.leaderboard.comparison import Board, format_override
from retrobench.leaderboard.rows import curve_roles, full_entrant, read_curve
from retrobench.leaderboard.tables.cells import Block, Section
from retrobench.leaderboard.tables.formatting import format_number

__all__ = ["PROBE_VALUES", "Probed", "probed_sections", "read_probed"]

FEWEST = 3  # checkpoints of a correlation
SCORE, COVERAGE = PROBE_VALUES = ("probe", "probe_coverage")  # as the log names them


@dataclass(frozen=True)
class Probed:
    """The probes of one row's pre-training, in the order of the steps."""

    line: str  # entrant and representation
    seed: int | None
    settings: str  # overrides of the track; empty for the track as it is
    measure: str  # of the scores
    steps: tuple[int, ...]
    scores: tuple[float, ...]
    coverages: tuple[float, ...]  # R-coverage above that of another text's words


def read_probed(board: Board) -> list[Probed]:
    """Return the probes of each row of a board that has them at several checkpoints, in the order of the rows.

    Rows that share a pre-training, as two representations do, count once.
    """
    probed = []
    read_keys: set[str] = set()
    for row in board.rows:
        folder = board.folders.get(row.id)
        keys = [key for role, key in curve_roles(row) if role == "pretrain"]
        if folder is None or not keys or keys[0] in read_keys:
            continue
        read_keys.add(keys[0])
        records = [record for record in read_curve(folder, keys[0]) if _is_whole(record)]
        if len(records) < FEWEST:
            continue
        probed.append(
            Probed(
                full_entrant(row.entrant, row.representation),
                row.seed,
                ", ".join(format_override(key, value) for key, value in row.overrides.items()),
                next(iter(next(iter(row.measures.values())))),
                tuple(record["step"] for record in records),
                tuple(record[SCORE] for record in records),
                tuple(record[COVERAGE] for record in records),
            )
        )
    return probed


def _is_whole(record: dict[str, Any]) -> bool:
    return record.get(SCORE) is not None and record.get(COVERAGE) is not None


def probed_sections(board: Board) -> list[Section]:
    """Return a section about the probes of a board's rows, a table for each changed track; none without probes."""
    groups: dict[str, list[Probed]] = {}
    for probed in read_probed(board):
        groups.setdefault(probed.settings, []).append(probed)
    blocks: list[Block] = []
    for settings, members in groups.items():
        where = f"the track with {settings}" if settings else "the track as it is"
        blocks.append(
            f"At checkpoints of {where}: R-coverage of the encoder's own head, above that of another text's words, "
            f"before fine-tuning; and {members[0].measure} of a copy after a short fine-tuning, on validation "
            "questions and few documents, which compare within this table alone. Spearman's correlation is over the "
            "checkpoints of a run."
        )
        blocks.append(_table(members))
        blocks.append(_pooled(members))
    return [Section("Term coverage and retrieval over checkpoints", tuple(blocks))] if blocks else []


def _table(members: Sequence[Probed]) -> Table:
    columns = [Column("entrant"), Column("seed", "right", "number"), Column("checkpoints", "right", "number")]
    for name in ("coverage", members[0].measure):
        columns += [Column(f"{name}, step {member}", "right", "measure") for member in _ends(members)]
    columns.append(Column("correlation", "right", "measure"))
    rows = []
    for member in members:
        row = [member.line, format_number(member.seed, "d"), str(len(member.steps))]
        row += [format_number(value, ".4f") for value in (member.coverages[0], member.coverages[-1])]
        row += [format_number(value, ".4f") for value in (member.scores[0], member.scores[-1])]
        row.append(_correlation(member.coverages, member.scores))
        rows.append(row)
    return Table(columns, rows)


def _ends(members: Sequence[Probed]) -> tuple[str, str]:
    """Return the first and the last step, where all members share them, else their names."""
    firsts = {member.steps[0] for member in members}
    lasts = {member.steps[-1] for member in members}
    if len(firsts) == 1 and len(lasts) == 1:
        return f"{firsts.pop():,}", f"{lasts.pop():,}"
    return "first", "last"


def _pooled(members: Sequence[Probed]) -> str:
    """Return a sentence about all checkpoints together: whether coverage orders objectives as it orders steps."""
    coverages = [value for member in members for value in member.coverages]
    scores = [value for member in members for value in member.scores]
    last = _correlation([member.coverages[-1] for member in members], [member.scores[-1] for member in members])
    return (
        f"Over all {len(scores)} checkpoints of {len(members)} runs the correlation is "
        f"{_correlation(coverages, scores)}, over the runs' last checkpoints {last}."
    )


def _correlation(coverages: Sequence[float], scores: Sequence[float]) -> str:
    """Return Spearman's correlation with its sign; "-" for few values, or for equal ones."""
    from scipy.stats import spearmanr

    if len(scores) < FEWEST or len(set(coverages)) == 1 or len(set(scores)) == 1:
        return "-"
    return f"{spearmanr(coverages, scores).statistic:+.2f}"
