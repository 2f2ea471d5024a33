"""
Rank documents and score rankings.

* ranking        one total order for every engine
* trec           TREC runs and judgements as arrays
* runfiles       a ranking in a folder
* measures       measures by ranx, checked against trec_eval
* score          the scores of a run against judgements
* significance   paired tests, Holm-corrected
* replicability  a run beside the authors' run
"""

from retrobench.scoring import ranking, replicability
from retrobench.scoring.measures import canonical, deepest
from retrobench.scoring.runfiles import read_run, write_run
from retrobench.scoring.score import Scored, score_file, score_hits
from retrobench.scoring.significance import ALPHA, Pair, paired_tests

__all__ = [
    "ALPHA",
    "Pair",
    "Scored",
    "canonical",
    "deepest",
    "paired_tests",
    "ranking",
    "read_run",
    "replicability",
    "score_file",
    "score_hits",
    "write_run",
]
