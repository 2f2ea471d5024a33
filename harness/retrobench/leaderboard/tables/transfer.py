"""
Tables of the datasets that a track tests where they are at hand, and of the gains that carry over to them.

* transfer_blocks   the scores on each dataset, the gains over the baseline, and the sentences below
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from retrobench.core import Column, Table
from retrobench.leaderboard.comparison import Comparison, Line, transfer_columns
from retrobench.leaderboard.tables.formatting import format_interval, signed, spread
from retrobench.scoring import Pair

__all__ = ["transfer_blocks"]

NOT_RUN = "NOT RUN"


def transfer_blocks(comparison: Comparison) -> list[Table | str]:
    """Return the tables of transfer and their sentences, none where the track has no datasets for it."""
    columns = transfer_columns(comparison)
    if not columns:
        return []
    measure = columns[0][1]
    measured = [dataset for dataset, _ in columns[1:]]
    blocks: list[Table | str] = [_scores(comparison, measure, measured)]
    if _gains_are_tested(comparison):
        blocks.append(_gains(comparison))
    return [*blocks, *_sentences(comparison, measure, measured)]


def _scores(comparison: Comparison, measure: str, measured: Sequence[str]) -> Table:
    """Return a row for each line and a column for each dataset, with the mean over the `measured` datasets."""
    columns = [Column(""), Column("entrant"), Column("representation")]
    columns += [Column(f"{dataset} {measure}", "right", "measure") for dataset in comparison.transfer]
    if len(measured) > 1:
        columns.append(Column(_mean_name(measured), "right", "measure"))
    rows = []
    for index, line in enumerate(comparison.lines):
        cells = [_score(line, dataset, measure) for dataset in comparison.transfer]
        if len(measured) > 1:
            cells.append(_mean_score(line, measured, measure))
        rows.append([comparison.letter(index), line.entrant, line.representation, *cells])
    return Table(columns, rows)


def _score(line: Line, dataset: str, measure: str) -> str:
    mean = line.mean(dataset, measure)
    return NOT_RUN if mean is None else spread(mean, line.deviation(dataset, measure))


def _mean_score(line: Line, datasets: Sequence[str], measure: str) -> str:
    """Return the mean over the datasets, and its deviation over seeds."""
    if not all(len(line.values(dataset, measure)) == len(line.rows) for dataset in datasets):
        return NOT_RUN
    means = []
    for row in line.rows:
        means.append(statistics.fmean(row.measures[dataset][measure] for dataset in datasets))
    deviation = statistics.stdev(means) if len(means) > 1 else None
    return spread(statistics.fmean(means), deviation)


def _mean_name(datasets: Sequence[str]) -> str:
    return f"mean of {len(datasets)}"


def _gains_are_tested(comparison: Comparison) -> bool:
    return len(comparison.beside) > 1 and bool(comparison.beside[0].against_baseline())


def _gains(comparison: Comparison) -> Table:
    """Return a row for each line minus its baseline, and a column for each dataset: gain, interval, effect ratio."""
    main, *others = comparison.beside
    gains = {index: pair for index, _, pair in main.against_baseline()}
    assert comparison.baseline is not None, "gains are over a baseline"
    letter = comparison.letter(comparison.baseline)
    columns = [Column(""), Column(f"minus {comparison.name(comparison.baseline)}")]
    for tested in comparison.beside:
        columns += [Column(_dataset(tested), "right", "number"), Column("beats", "right", "marks")]
        if tested is not main:
            columns.append(Column("effect ratio", "right", "number"))
    rows = []
    for index, gain in gains.items():
        cells = [comparison.letter(index), comparison.name(index), *_gain(main, index, gain, letter)]
        for tested in others:
            cells += _transferred(tested, comparison.lines[index], gain, letter)
        rows.append(cells)
    return Table(columns, rows)


def _transferred(tested: Comparison, line: Line, main_gain: Pair, letter: str) -> list[str]:
    """Return the cells of a line on a dataset of transfer: gain, the baseline's letter, effect ratio."""
    for index, _, pair in tested.against_baseline():
        if tested.lines[index] == line:
            return [*_gain(tested, index, pair, letter), _effect_ratio(pair, main_gain)]
    return [NOT_RUN, "", "-"]


def _gain(tested: Comparison, index: int, pair: Pair, letter: str) -> list[str]:
    """Return the gain with its interval, and the baseline's letter where the line beats it."""
    mark = letter if pair.winner() == index else ""
    return [f"{signed(pair.difference)} {format_interval(pair.interval)}", mark]


def _effect_ratio(pair: Pair, main: Pair) -> str:
    """Return the gain as a share of the gain on the main dataset; "-" where that may be 0."""
    if main.interval is None or main.interval[0] <= 0 <= main.interval[1]:
        return "-"
    return f"{pair.difference / main.difference:+.2f}"


def _dataset(tested: Comparison) -> str:
    assert tested.tested is not None, "the comparisons beside another are tested"
    return tested.tested[0]


def _sentences(comparison: Comparison, measure: str, measured: Sequence[str]) -> list[str]:
    sentences = [f"{', '.join(comparison.transfer)}: {measure} of the same encoders. No training read their questions."]
    if len(measured) > 1:
        sentences.append(f"{_mean_name(measured).capitalize()}: the unweighted mean of {', '.join(measured)}.")
    for dataset in comparison.transfer:
        if not any(line.values(dataset, measure) for line in comparison.lines):
            sentences.append(
                f"NOT RUN: {dataset} was not at hand. `retrobench data fetch {dataset}` fetches it, and the rows' "
                "commands then add its column."
            )
    if _gains_are_tested(comparison):
        main = _dataset(comparison.beside[0])
        sentences += [
            f"Gains are differences of {measure} with 95 % intervals over seeds and questions. The baseline's letter "
            "stands where the simultaneous interval over all pairs on that dataset excludes 0.",
            f'Effect ratio: the gain divided by the gain on {main}; 1 where the gain carries over whole, "-" where '
            f"the gain on {main} may be 0 (Breuer et al., SIGIR 2020).",
        ]
    return sentences
