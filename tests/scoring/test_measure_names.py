"""Names of measures: one canonical name for every spelling, and errors for names and options not computed."""

from __future__ import annotations

import numpy as np
import pytest

from retrobench.errors import RetrobenchError
from retrobench.scoring.measures import canonical, deepest, measure


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("nDCG@10", 1, "nDCG@10"),
        ("nDCG(dcg='log2')@10", 2, "nDCG@10"),
        ('nDCG(dcg="log2")@20', 1, "nDCG@20"),
        ("RR@10", 1, "MRR@10"),
        ("MRR@10", 2, "MRR@10"),
        ("RR", 1, "RR"),
        ("RR(rel=2)", 1, "RR(rel=2)"),
        ("RR(rel=2)@10", 1, "MRR(rel=2)@10"),
        ("RR(rel=2)@10", 2, "MRR@10"),
        ("RR(rel=1)@10", 1, "MRR@10"),
        ("R@100", 1, "Recall@100"),
        ("R(rel=2)@1000", 1, "Recall(rel=2)@1000"),
        ("AP", 1, "MAP"),
        ("AP(rel=2)@100", 3, "MAP(rel=2)@100"),
        ("Success(rel=2)@5", 2, "Success@5"),
        ("RR( rel = 2 )@10", 2, "MRR@10"),
    ],
)
def test_every_spelling_has_one_canonical_name(name: str, level: int, expected: str) -> None:
    assert canonical(name, level) == expected
    assert canonical(expected, level) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nDCG(dcg='exp-log2')@10", r"nDCG takes only \(dcg='log2', linear gain\)"),
        ("nDCG(rel=2)@10", r"nDCG takes only \(dcg='log2', linear gain\)"),
        ("nDCG(gains={0:0})@10", r"nDCG takes only"),
        ("RR(judged_only=True)@10", r"RR takes only \(rel=N, the least relevant grade\)"),
        ("AP(rel=0)", r"MAP takes only \(rel=N"),
        ("R(rel=2,judged_only=True)@10", r"Recall takes only \(rel=N"),
    ],
)
def test_an_option_that_is_not_computed_is_refused(name: str, message: str) -> None:
    with pytest.raises(RetrobenchError, match=rf"^Measure .* is not computed: {message}"):
        canonical(name)


@pytest.mark.parametrize("name", ["nDCG@9999999999", "MRR@1000001", f"MAP@{'9' * 5000}", "AP(rel=1001)"])
def test_a_number_that_no_engine_can_hold_is_refused(name: str) -> None:
    with pytest.raises(RetrobenchError, match=r"has a (cutoff above 1,000,000|level above 1,000)\. Give a smaller"):
        canonical(name)


def test_the_deepest_cutoff() -> None:
    assert deepest(["MRR@10", "Recall@100", "nDCG@10"]) == 100
    assert deepest(["MRR@10", "MAP"]) is None
    assert deepest(["RR"]) is None


@pytest.mark.parametrize("name", ["MMR@10", "MRR", "nDCG", "MRR@", "MRR@0", "MRR@ten", "MRR@10@2", "Recall@-1", ""])
def test_an_unknown_measure_is_refused(name: str) -> None:
    with pytest.raises(
        RetrobenchError, match=r"^Unknown measure .* Known: Judged@10, MAP, MAP@10, MRR@10, .* nDCG@10\. ir_measures"
    ):
        measure(["q"], np.zeros((1, 1), np.int32), ["a"], {"q": {"a": 1}}, [name])
    with pytest.raises(RetrobenchError, match="Unknown measure"):
        deepest([name])


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(RetrobenchError, match=r"^Unknown measure 'NDCG@10'\. Did you mean 'nDCG@10'\?"):
        deepest(["NDCG@10"])
