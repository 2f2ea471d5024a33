"""
Rank documents and score rankings.

* ranking       one total order for every engine
* trec          TREC runs and judgements as arrays
* runfiles      a ranking in a folder
* measures      measures by ranx, checked against trec_eval
* score         the scores of a run against judgements
* conventions   the means of a run by BEIR's own code
* rescoring     a run file scored again, by three engines
* significance  paired tests, Holm-corrected
"""

from retrobench.scoring import ranking
from retrobench.scoring.measures import canonical, deepest
from retrobench.scoring.rescoring import Rescored, rescore
from retrobench.scoring.runfiles import read_run, write_run
from retrobench.scoring.score import Judgements, Scored, dataset_judgements, score_file, score_hits
from retrobench.scoring.significance import ALPHA, Pair, paired_tests

__all__ = [
    "ALPHA",
    "Judgements",
    "Pair",
    "Rescored",
    "Scored",
    "canonical",
    "dataset_judgements",
    "deepest",
    "paired_tests",
    "ranking",
    "read_run",
    "rescore",
    "score_file",
    "score_hits",
    "write_run",
]
