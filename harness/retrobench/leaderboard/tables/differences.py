"""
Differences between the lines of a table, with intervals over seeds and questions: a table, and sentences below it.

* difference_table   each line minus the baseline
* about_differences  the method, and the differences that it did not show
* about_verdicts     the power, and the lines that do not beat their baseline
* format_result      a difference with its interval and p
* format_ranks       the ranks that the significant differences allow
"""

from __future__ import annotations

from retrobench.core import Column, Table
from retrobench.leaderboard.comparison import Comparison
from retrobench.leaderboard.tables.formatting import format_interval, signed
from retrobench.scoring import ALPHA, FEW_CLUSTERS, FEWEST_SEEDS, MANY_CLUSTERS, POWER, Pair

__all__ = ["about_differences", "about_verdicts", "difference_table", "format_ranks", "format_result"]

SHARED = {"document": "a relevant document", "title": "the title of their document"}  # by Rule.clusters


def format_ranks(comparison: Comparison, index: int) -> str:
    """Return the ranks of a line, such as 1 or 2-4."""
    first, last = comparison.ranks(index)
    return str(first) if first == last else f"{first}-{last}"


def difference_table(comparison: Comparison) -> Table:
    """Return a row for each line minus its baseline."""
    pairs = comparison.against_baseline()
    rivals = {rival for _, rival, _ in pairs}
    title = "difference"
    if len(rivals) == 1:
        title = f"minus {comparison.name(rivals.pop())}"
    columns = [Column(""), Column(title)]
    for name in ("difference", "95 % interval", "simultaneous", "d", "seeds wanted"):
        columns.append(Column(name, "right", "number"))
    rows = []
    for index, rival, pair in pairs:
        name = comparison.name(index)
        if title == "difference":
            name = _pair_name(comparison, index, rival)
        intervals = [format_interval(pair.interval), format_interval(pair.simultaneous)]
        figures = [signed(pair.difference), *intervals, _format_effect(pair), _format_wanted(pair)]
        rows.append([comparison.letter(index), name, *figures])
    return Table(columns, rows)


def about_differences(comparison: Comparison) -> list[str]:
    """Return sentences about the method, its sample, its power, and the differences that it did not show."""
    sentences = [_about_letters(comparison), _about_intervals(comparison), _about_questions(comparison)]
    sentences += _about_size(comparison)
    sentences += _about_few_seeds(comparison)
    sentences += about_verdicts(comparison)
    sentences += _near_the_best(comparison)
    return sentences


def about_verdicts(comparison: Comparison) -> list[str]:
    """Return sentences about the smallest detectable difference, and on each line that does not beat its baseline."""
    return [*_about_power(comparison), *_not_better(comparison)]


def _about_letters(comparison: Comparison) -> str:
    assert comparison.tested is not None
    return (
        f"Letters beside {comparison.tested[1]} name the lines that a line beats: the simultaneous interval of their "
        f"difference excludes 0, with at least {FEWEST_SEEDS} seeds of each. Lines that cannot be told apart share "
        "ranks."
    )


def _about_intervals(comparison: Comparison) -> str:
    count = len(comparison.pairs)
    pairs = "There is one pair, so both intervals are equal."
    if count > 1:
        pairs = f"The simultaneous intervals hold for all {count} pairs together (Tamhane's T2), alpha {ALPHA}."
    return (
        "Intervals are over seeds and questions: t, with the variances of two random factors and Satterthwaite's "
        f"degrees of freedom. {pairs}"
    )


def _about_questions(comparison: Comparison) -> str:
    assert comparison.tested is not None
    dataset = comparison.tested[0]
    if comparison.clustered_by is None:
        return (
            f"Each of the {comparison.queries} queries of {dataset} is a cluster of its own, because the file of "
            "clusters is missing."
        )
    shared = SHARED.get(comparison.clustered_by, comparison.clustered_by)
    return (
        f"The {comparison.queries} queries of {dataset} form {comparison.test.clusters} clusters. Queries of a cluster "
        f"share {shared} and depend on each other."
    )


def _about_size(comparison: Comparison) -> list[str]:
    """Return a sentence about the test that this number of clusters needs."""
    clusters = comparison.test.clusters
    if clusters < FEW_CLUSTERS:
        return [
            f"With fewer than {FEW_CLUSTERS} clusters, a letter also needs a sign-flip test over clusters, p "
            f"Holm-corrected below {ALPHA}."
        ]
    if clusters >= MANY_CLUSTERS:
        return [f"With {clusters} clusters even a small difference can be significant: read d before p."]
    return [f"{clusters} clusters are enough for t, so no second test is made."]


def _about_few_seeds(comparison: Comparison) -> list[str]:
    few = []
    for index, line in enumerate(comparison.lines):
        if line.seeds and len(line.seeds) < FEWEST_SEEDS:
            few.append(f"{comparison.name(index)} ({len(line.seeds)})")
    if not few:
        return []
    return [f"Too few seeds for a letter, and with one seed for an interval: {', '.join(few)}."]


def _about_power(comparison: Comparison) -> list[str]:
    """Return the range of the smallest detectable differences, and the meaning of `d` and `seeds wanted`."""
    detectable = []
    for index, rival, pair in comparison.against_baseline():
        if pair.smallest_detectable is not None:
            detectable.append((pair.smallest_detectable, _pair_name(comparison, index, rival)))
    if not detectable:
        return []
    smallest, smallest_name = min(detectable)
    largest, largest_name = max(detectable)
    return [
        f"Smallest true difference that these seeds and questions show with probability {POWER}: between "
        f"{smallest:.4f} ({smallest_name}) and {largest:.4f} ({largest_name}), by pair with the baseline.",
        "d: the difference divided by the sample deviation of the queries' differences.",
        "Seeds wanted: of each line, so that the simultaneous interval excludes 0 if the estimates stay as they are. "
        '"none": the questions leave the pair open with any number of seeds.',
    ]


def _not_better(comparison: Comparison) -> list[str]:
    """Return a sentence for each line that does not beat its baseline."""
    sentences = []
    for index, rival, pair in comparison.against_baseline():
        if pair.winner() == index:
            continue
        worse = " It is significantly worse." if pair.significant else ""
        result = format_result(comparison, pair)
        sentences.append(
            f"{comparison.name(index)} does not beat {comparison.name(rival)} at this size: {result}.{worse}"
        )
    return sentences


def _near_the_best(comparison: Comparison) -> list[str]:
    """Return a sentence that names the lines without a significant difference to the best."""
    names = []
    for index, pair in comparison.against(0):
        if not pair.significant:
            names.append(f"{comparison.name(index)} ({format_result(comparison, pair)})")
    if not names:
        return []
    return [f"Not significantly different from the best, {comparison.name(0)}: {'; '.join(names)}."]


def format_result(comparison: Comparison, pair: Pair) -> str:
    """Return difference, interval and p; with many clusters the effect size before them."""
    figures = [signed(pair.difference)]
    if comparison.test.clusters >= MANY_CLUSTERS:
        figures.append(f"d = {_format_effect(pair)}")
    if pair.simultaneous is not None:
        figures.append(format_interval(pair.simultaneous))
    if pair.p is not None:
        figures.append("p < 0.001" if pair.p < 0.001 else f"p = {pair.p:.2g}")
    return ", ".join(figures)


def _pair_name(comparison: Comparison, index: int, rival: int) -> str:
    return f"{comparison.name(index)} - {comparison.name(rival)}"


def _format_effect(pair: Pair) -> str:
    return "-" if pair.effect is None else f"{pair.effect:+.2f}"


def _format_wanted(pair: Pair) -> str:
    """Return the seeds wanted, "none" where no number decides, "-" where no line is random or nothing is estimated."""
    if pair.simultaneous is None or pair.seeds is None:
        return "-"
    return "none" if pair.seeds_wanted is None else str(pair.seeds_wanted)
