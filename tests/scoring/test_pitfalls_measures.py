"""The evaluation pitfalls that moved published numbers, by number: measures, their names and their files."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from pitfall_files import collection, score, write

from retrobench.data import rules
from retrobench.errors import RetrobenchError
from retrobench.scoring import trec
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.runfiles import write_run
from retrobench.scoring.score import score_file


def test_pitfall_25_ndcg_has_two_gains(tmp_path: Path) -> None:
    """Grades 1, 2, 3 in this order gain 0.790 of the ideal where gain is the grade, 0.681 where it is 2^grade - 1."""
    run = {"q": "c b a"}
    qrels = {"q": {"a": 3, "b": 2, "c": 1}}
    scored = score(tmp_path, run, qrels, "nDCG@10", "nDCG(dcg='log2')@10")
    gain_at_2 = 2 / math.log2(3)
    ndcg = (1 + gain_at_2 + 3 / 2) / (3 + gain_at_2 + 1 / 2)
    assert scored.measures == pytest.approx({"nDCG@10": ndcg}, abs=1e-12)
    assert ndcg == pytest.approx(0.790, abs=5e-4)
    with pytest.raises(RetrobenchError, match=r"^Measure .* nDCG takes only \(dcg='log2'"):
        score(tmp_path, run, qrels, "nDCG(dcg='exp-log2')@10")


def test_pitfall_26_one_name_for_several_measures(tmp_path: Path) -> None:
    """The first hit at rank 12: RR has no cut-off and is 1/12, RR@10 is 0 under its own name, MRR@10."""
    run = {"q": "d01 d02 d03 d04 d05 d06 d07 d08 d09 d10 d11 d12"}
    qrels = {"q": {"d12": 1}}
    scored = score(tmp_path, run, qrels, "RR", "RR@10", "Recall@100")
    assert scored.measures == pytest.approx({"RR": 1 / 12, "MRR@10": 0.0, "Recall@100": 1.0}, abs=1e-12)
    # Capped recall is refused, with the choices.
    with pytest.raises(RetrobenchError, match=r"^Unknown measure 'R_cap@100'\..* Known: .*Recall@10, "):
        score(tmp_path, run, qrels, "R_cap@100")


def test_pitfall_26_grade_1_is_relevant_in_trec_dl(tmp_path: Path) -> None:
    """Under TREC DL's rule grade 1 is a miss, here at rank 1, and a gain in nDCG: (1 + 3/log2 3) / (3 + 1/log2 3)."""
    for year in ("2019/judged", "2020", "hard"):
        assert rules.rule(f"msmarco-passage/trec-dl-{year}").relevance_level == 2
    qrels = {"q": {"a": 1, "b": 3}}
    data = collection(tmp_path / "data", "a b", qrels, "relevance_level = 2\n")
    run, judged = write(tmp_path, {"q": "a b"}, qrels)
    ndcg = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    by_rule = {"RR": 1 / 2, "RR(rel=1)": 1.0, "Recall@1": 0.0, "nDCG@10": ndcg}
    scored = score_file(run, str(data), None, list(by_rule))
    assert scored.relevance_level == 2
    assert scored.measures == pytest.approx(by_rule, abs=1e-12)
    # Without the rule both are relevant.
    without_rule = {"RR": 1.0, "Recall@1": 1 / 2, "nDCG@10": ndcg}
    scored = score_file(run, None, judged, list(without_rule))
    assert scored.measures == pytest.approx(without_rule, abs=1e-12)


def test_pitfall_27_ids_tags_heads_and_grades_of_other_kinds(tmp_path: Path) -> None:
    """Ids are texts: 7, 07 and 7.0 are three documents, and query 1 is not query 01."""
    qrels = {"1": {"7": 1}, "01": {"7.0": 1}}
    scored = score(tmp_path, {"1": "07 7 7.0", "01": "07 7 7.0"}, qrels, "RR")
    assert scored.values == {"RR": {"1": 1 / 2, "01": 1 / 3}}

    # A name with blanks and a percent sign leaves six columns to a line.
    hits = np.asarray([[1, 0]], np.int32)
    scores = np.asarray([[2.5, 1.0]], np.float32)
    write_run(tmp_path, ["1"], ["7", "07"], Ranking(hits, scores, self_hits=0, ties=0), "my model 50%")
    text = (tmp_path / "run.trec").read_text()
    assert text == "1 Q0 07 1 2.5 mymodel50%\n1 Q0 7 2 1 mymodel50%\n"
    assert trec.read_run(tmp_path / "run.trec").tag == "mymodel50%"

    # Lines of ir_metadata at the head of a run are no hits.
    headed = tmp_path / "headed"
    judged = tmp_path / "judged"
    headed.write_text(f"# ir_metadata.start\n# tag: my model\n#\n# ir_metadata.end\n{text}")
    judged.write_text("1 0 7 1\n")
    scored = score_file(headed, None, judged, ["RR"])
    assert scored.measures == {"RR": 1 / 2}

    # A grade of 0.5 is not 0.
    for grade in ("0.5", "1.0", "nan"):
        last_column = re.escape(grade)
        with pytest.raises(RetrobenchError, match=rf"qrels\.txt, line 1: .* a whole number .*7 {last_column}'\.$"):
            score(tmp_path, {"1": "7"}, {"1": {"7": grade}})
