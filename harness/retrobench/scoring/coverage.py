"""
Simulate lines whose true differences are 0, and count how often the intervals cover it.

    python -m retrobench.scoring.coverage REPETITIONS [FILE]

prints a table for 3, 5 and 10 seeds, and writes it as JSON to FILE. The intervals come from the functions that the
leaderboard calls. Effects that all lines share cancel in differences, so the simulation leaves them out.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrobench.core import Column, Table, atomic_write
from retrobench.scoring.components import Components, decompose, measure_arm
from retrobench.scoring.intervals import ALPHA, half_width

__all__ = ["Coverage", "Setting", "settings", "simulate"]

LINES = 7
SEED_SCALES = np.array([0.5, 1, 1, 2, 0.5, 2, 1])  # lines differ in their spread over seeds, as in track mini
QUESTIONS = 250
CLUSTER_SIZES = (1, 2, 3, 9, 10)  # in turn, so 50 clusters; the test of retrobench/squad has 48 articles
SHARED = 0.5  # the share of a question's variance that its cluster shares
SKEWED_SCALES = np.array([0, 1, 1, 1.5, 1, 1, 1.5])  # unequal, or else the differences would be symmetric

# The studentized range of 7 lines exceeds 4.17 with probability ALPHA for any degrees of freedom. Its distribution is
# slow to compute, so smaller ones are not looked up.
LEAST_CRITICAL = 4.16

# The reciprocal ranks of a weak retriever: 0 for most questions, 1 for some.
RECIPROCAL_RANKS = np.array([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 7, 1 / 8, 1 / 9, 1 / 10, 0])
FREQUENCIES = np.array([0.12, 0.05, 0.03, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.71])


@dataclass(frozen=True)
class Setting:
    """One simulated table."""

    seeds: int  # of each line
    values: str  # how effects of questions are distributed: "normal" or "reciprocal ranks"
    clustered: bool  # 250 questions in 50 clusters, or each on its own
    ratio: float  # of the variances of a difference: over seeds / over questions, both without interaction


@dataclass(frozen=True)
class Coverage:
    """Shares of intervals that cover the true difference, 0."""

    setting: Setting
    repetitions: int
    pair: float  # of the intervals of single pairs
    simultaneous: float  # of the tables whose simultaneous intervals all cover it
    games_howell: float  # the same by the studentized range, which was not chosen


def settings() -> Iterator[Setting]:
    """Yield the settings of the published table."""
    for values, clustered, ratio in itertools.product(("normal", "reciprocal ranks"), (False, True), (0.1, 1, 10)):
        for seeds in (3, 5, 10):
            yield Setting(seeds, values, clustered, ratio)


def simulate(setting: Setting, repetitions: int) -> Coverage:
    """Return the coverage in one setting. Equal arguments give equal results."""
    generator = np.random.default_rng(0)
    pair_covered = 0
    tables_covered = 0
    games_howell_covered = 0
    pairs = LINES * (LINES - 1) // 2
    for _ in range(repetitions):
        covered = _covered(_draw(setting, generator), _clusters(setting))
        pair_covered += covered.pairs
        tables_covered += covered.all_together
        games_howell_covered += covered.games_howell
    return Coverage(
        setting,
        repetitions,
        pair=pair_covered / repetitions / pairs,
        simultaneous=tables_covered / repetitions,
        games_howell=games_howell_covered / repetitions,
    )


class _Covered(NamedTuple):
    pairs: int
    all_together: bool
    games_howell: bool


def _covered(values: np.ndarray, clusters: np.ndarray) -> _Covered:
    """Return how many single intervals cover 0, and whether all simultaneous ones do. `values` is [L, S, Q]."""
    means = values.mean(axis=1)  # [L, Q]
    arms = [measure_arm(line, clusters) for line in values]
    indices = list(itertools.combinations(range(len(values)), 2))
    single = 0
    together = True
    games_howell = True
    for first, second in indices:
        differences = means[first] - means[second]
        components = decompose(differences, (arms[first], arms[second]), clusters)
        distance = abs(float(differences.mean()))
        single += int(distance <= half_width(components))
        together = together and bool(distance <= half_width(components, len(indices)))
        games_howell = games_howell and _games_howell_covers(distance, components)
    return _Covered(single, together, games_howell)


def _games_howell_covers(distance: float, components: Components) -> bool:
    """Return whether the interval by Games and Howell, J. Educ. Stat. 1 (1976), covers 0."""
    from scipy.stats import studentized_range

    q = distance / math.sqrt(components.variance / 2)
    if q < LEAST_CRITICAL:
        return True
    return bool(studentized_range.sf(q, LINES, components.freedom) >= ALPHA)


def _clusters(setting: Setting) -> np.ndarray:
    """Return the cluster of each question, [Q]."""
    if not setting.clustered:
        return np.arange(QUESTIONS)
    rounds = QUESTIONS // sum(CLUSTER_SIZES)
    sizes = CLUSTER_SIZES * rounds
    return np.repeat(np.arange(len(sizes)), sizes)


def _draw(setting: Setting, generator: np.random.Generator) -> np.ndarray:
    """Return the values of all lines, [L, S, Q], with a true mean of 0."""
    clusters = _clusters(setting)
    scales = np.ones(LINES) if setting.values == "normal" else SKEWED_SCALES
    questions = _effects(setting, generator, (LINES, QUESTIONS))
    if setting.clustered:
        shared = _effects(setting, generator, (LINES, int(clusters.max()) + 1))
        questions = np.sqrt(SHARED) * shared[:, clusters] + np.sqrt(1 - SHARED) * questions
    question_square = (scales**2).mean()
    seed_square = (SEED_SCALES**2).mean()
    seed_variance = setting.ratio * setting.seeds * _mean_variance(setting, clusters) * question_square / seed_square
    seed_deviations = SEED_SCALES[:, None] * np.sqrt(seed_variance)  # [L, 1]
    seeds = seed_deviations * generator.standard_normal((LINES, setting.seeds))
    interaction = generator.standard_normal((LINES, setting.seeds, QUESTIONS))
    scaled = scales[:, None] * questions  # [L, Q]
    return np.asarray(scaled[:, None, :] + seeds[:, :, None] + interaction)


def _mean_variance(setting: Setting, clusters: np.ndarray) -> float:
    """Return the variance of the mean over questions whose effects have variance 1."""
    if not setting.clustered:
        return 1 / QUESTIONS
    sizes = np.bincount(clusters)
    return float(SHARED * (sizes**2).sum() / QUESTIONS**2 + (1 - SHARED) / QUESTIONS)


def _effects(setting: Setting, generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return independent effects of mean 0 and variance 1."""
    if setting.values == "normal":
        return generator.standard_normal(shape)
    mean = RECIPROCAL_RANKS @ FREQUENCIES
    variance = RECIPROCAL_RANKS**2 @ FREQUENCIES - mean**2
    drawn = generator.choice(RECIPROCAL_RANKS, shape, p=FREQUENCIES)
    return np.asarray((drawn - mean) / np.sqrt(variance))


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    repetitions = int(arguments[0])
    results = [simulate(setting, repetitions) for setting in settings()]
    columns = [
        Column(name) for name in ("values", "clusters", "ratio", "seeds", "one pair", "all pairs", "Games-Howell")
    ]
    rows: list[list[str | int | float | None]] = []
    for result in results:
        setting = result.setting
        shares = [f"{result.pair:.1%}", f"{result.simultaneous:.1%}", f"{result.games_howell:.1%}"]
        rows.append([setting.values, str(setting.clustered), setting.ratio, setting.seeds, *shares])
    print(Table(columns, rows).text())
    if len(arguments) > 1:
        lines = [json.dumps(asdict(result)) for result in results]
        atomic_write(Path(arguments[1]), "[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
