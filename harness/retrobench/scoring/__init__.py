"""
Rank documents and score rankings.

* ranking        one total order for every engine
* trec           TREC runs and judgements as arrays
* runfiles       a ranking in a folder
* metadata       ir_metadata beside a run
* judged         judged documents, and rankings of them alone
* measures       measures by ranx, checked against trec_eval
* score          the scores of a run against judgements
* components     the variance of a difference over seeds and questions
* intervals      intervals for one pair and for all pairs, power
* significance   pairs of systems compared
* coverage       simulation of the intervals
* term_coverage  the words that a text's vector names
* conventions    the means of a run by BEIR's own code
* rescoring      a run file scored again, by three engines
* replicability  a run beside the authors' run
"""

from retrobench.scoring import ranking, replicability
from retrobench.scoring.intervals import ALPHA, FEWEST_SEEDS, POWER, critical_value
from retrobench.scoring.measures import canonical, deepest
from retrobench.scoring.metadata import write_metadata
from retrobench.scoring.rescoring import Rescored, rescore
from retrobench.scoring.runfiles import read_run, write_run
from retrobench.scoring.score import Judgements, Scored, dataset_judgements, score_file, score_hits
from retrobench.scoring.significance import FEW_CLUSTERS, MANY_CLUSTERS, Pair, PairwiseTest, System, compare_systems
from retrobench.scoring.term_coverage import CUTOFFS, Mean, bootstrap_mean, measure_coverage, rank_words

__all__ = [
    "ALPHA",
    "CUTOFFS",
    "FEWEST_SEEDS",
    "FEW_CLUSTERS",
    "MANY_CLUSTERS",
    "POWER",
    "Judgements",
    "Mean",
    "Pair",
    "PairwiseTest",
    "Rescored",
    "Scored",
    "System",
    "bootstrap_mean",
    "canonical",
    "compare_systems",
    "critical_value",
    "dataset_judgements",
    "deepest",
    "measure_coverage",
    "rank_words",
    "ranking",
    "read_run",
    "replicability",
    "rescore",
    "score_file",
    "score_hits",
    "write_metadata",
    "write_run",
]
