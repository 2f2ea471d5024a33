"""
The variance of a difference between two lines, over seeds and questions, in its parts.

A value of a line is its mean, plus an effect of the seed, plus an effect of the question, plus their interaction. So a
difference D between two lines is a mean over two random factors, as in multi-reader multi-case studies: Obuchowski and
Rockette, Commun. Stat. Simul. Comput. 24 (1995); Hillis, Stat. Med. 26 (2007).

    seed         Σ s² / S, where s² is the variance over a line's S seeds of its mean over questions
    question     variance of the mean over questions of seed-averaged differences, by sums over clusters of questions
    interaction  the part that both of these hold, so their sum counts it twice
    variance     seed + question - interaction, never below seed, never below question

Equal seeds of two lines share the order of batches at most. They count as independent samples, which is cautious.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CAUTIOUS_BELOW", "Arm", "Components", "decompose", "measure_arm"]

# Below this number of seeds, Welch's degrees of freedom give too short intervals (figures in leaderboards/README.md).
CAUTIOUS_BELOW = 5


@dataclass(frozen=True)
class Arm:
    """The variances of one line. A line without randomness has no seeds and no variance."""

    seeds: int = 0
    seed: float = 0.0  # variance over seeds of the mean over questions
    interaction: float = 0.0  # the share of the interaction in `seed`

    def per_seeds(self, variance: float) -> float:
        """Return a variance of one seed as the variance of the mean over seeds."""
        return variance / self.seeds if self.seeds else 0.0


@dataclass(frozen=True)
class Components:
    """The variance of a difference in its parts."""

    arms: tuple[Arm, Arm]
    questions_alone: float  # question - interaction; the difference of two estimates can be negative
    clusters: int

    @property
    def seed(self) -> float:
        return sum(arm.per_seeds(arm.seed) for arm in self.arms)

    @property
    def interaction(self) -> float:
        return sum(arm.per_seeds(arm.interaction) for arm in self.arms)

    @property
    def question(self) -> float:
        return max(0.0, self.questions_alone + self.interaction)

    @property
    def variance(self) -> float:
        return max(self.seed + self.question - self.interaction, self.seed, self.question)

    @property
    def freedom(self) -> float:
        """
        Return the degrees of freedom by Satterthwaite, Biometrics Bulletin 2 (1946).

        The seeds of two lines add up by Welch from five seeds on. Below five, they have the degrees of the line with
        the fewest seeds. The interaction has (S - 1)(C - 1) degrees of freedom, so many that its term is left out.
        """
        total = self._seed_term() + self.question**2 / (self.clusters - 1)
        if total == 0:
            return float(self.clusters - 1)
        return self.variance**2 / total

    def with_seeds(self, seeds: int) -> Components:
        """Return the components of the same lines with another number of seeds each."""
        first, second = (replace(arm, seeds=seeds) if arm.seeds else arm for arm in self.arms)
        return replace(self, arms=(first, second))

    def _seed_term(self) -> float:
        random = [arm for arm in self.arms if arm.seeds]
        if not random:
            return 0.0
        fewest = min(arm.seeds for arm in random)
        if fewest < CAUTIOUS_BELOW:
            return self.seed**2 / (fewest - 1)
        return sum(arm.per_seeds(arm.seed) ** 2 / (arm.seeds - 1) for arm in random)


def measure_arm(values: np.ndarray, clusters: np.ndarray) -> Arm:
    """Return the variances of a line with randomness. `values` is [S, Q], at least 2 seeds; `clusters` is [Q]."""
    seeds = len(values)
    seed_means = values.mean(axis=1)
    residuals = values - seed_means[:, None] - values.mean(axis=0) + values.mean()  # [S, Q]
    interaction = sum(mean_variance(row, clusters) for row in residuals) / (seeds - 1)
    return Arm(seeds, float(seed_means.var(ddof=1)), interaction)


def decompose(differences: np.ndarray, arms: tuple[Arm, Arm], clusters: np.ndarray) -> Components:
    """Return the components of a pair. `differences` is [Q], seed-averaged; `clusters` holds 0 to C - 1, C above 1."""
    bare = Components(arms, 0.0, int(clusters.max()) + 1)
    question = mean_variance(differences - differences.mean(), clusters)
    return replace(bare, questions_alone=question - bare.interaction)


def mean_variance(centred: np.ndarray, clusters: np.ndarray) -> float:
    """
    Return the variance of a mean over questions, from deviations [Q] that add up to 0.

    Questions of a cluster depend on each other, so the sums over clusters are squared. The factor is C / (C - 1).
    """
    import numpy as np

    sums = np.bincount(clusters, centred)
    return float(len(sums) / (len(sums) - 1) * (sums**2).sum() / len(centred) ** 2)
