"""
Rank documents and score rankings.

* ranking       one total order for every engine
* trec          TREC runs and judgements as arrays
* runfiles      a ranking in a folder
* measures      measures by ranx, checked against trec_eval
* score         the scores of a run against judgements
* significance  paired tests, Holm-corrected
"""

from retrobench.scoring import ranking
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
    "score_file",
    "score_hits",
    "write_run",
]
