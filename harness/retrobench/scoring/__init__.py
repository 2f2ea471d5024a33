"""
Rank documents and score rankings.

* ranking       one total order for every engine
* trec          TREC runs and judgements as arrays
* runfiles      a ranking in a folder
* measures      measures by ranx, checked against trec_eval
* score         the scores of a run against judgements
* components    the variance of a difference over seeds and questions
* intervals     intervals for one pair and for all pairs, power
* significance  pairs of systems compared
* coverage      simulation of the intervals
"""

from retrobench.scoring import ranking
from retrobench.scoring.intervals import ALPHA, FEWEST_SEEDS, POWER
from retrobench.scoring.measures import canonical, deepest
from retrobench.scoring.runfiles import read_run, write_run
from retrobench.scoring.score import Scored, score_file, score_hits
from retrobench.scoring.significance import FEW_CLUSTERS, MANY_CLUSTERS, Pair, PairwiseTest, System, compare_systems

__all__ = [
    "ALPHA",
    "FEWEST_SEEDS",
    "FEW_CLUSTERS",
    "MANY_CLUSTERS",
    "POWER",
    "Pair",
    "PairwiseTest",
    "Scored",
    "System",
    "canonical",
    "compare_systems",
    "deepest",
    "ranking",
    "read_run",
    "score_file",
    "score_hits",
    "write_run",
]
