"""A run scored by BEIR's own code: equal to ranx and trec_eval wherever BEIR has the measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrobench.data import load
from retrobench.scoring import conventions, dataset_judgements, rescore
from retrobench.scoring.conventions import beir_means
from retrobench.scoring.trec import read_run

# q1 ties its two judged documents: the id decides. q2 is answered by its second hit, q3 not at all, q4 has no hit.
QRELS = "q1\ta\t2\nq1\tb\t1\nq2\tc\t1\nq3\td\t0\nq4\td\t1\n"
RUN = "q1 Q0 a 1 1 t\nq1 Q0 b 2 1 t\nq2 Q0 q2 1 3 t\nq2 Q0 c 2 2 t\nq3 Q0 d 1 1 t\nq9 Q0 a 1 1 t\n"
NAMES = ["nDCG@10", "MRR@10", "RR", "Recall@1", "Recall@10", "Success@1", "MAP@10", "MAP"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{QRELS}")
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"_id": "{name}", "text": "t"}}\n' for name in "abcd"))
    (tmp_path / "queries.jsonl").write_text("".join(f'{{"_id": "q{n}", "text": "t"}}\n' for n in range(1, 5)))
    (tmp_path / "run.trec").write_text(RUN)
    return tmp_path


def by_beir(folder: Path, level: int) -> dict[str, float]:
    run = read_run(folder / "run.trec")
    return beir_means(run, run.rank(), load(str(folder)).qrels(), NAMES, level)


def test_means_by_hand_over_all_four_judged_queries(folder: Path) -> None:
    means = by_beir(folder, 1)
    assert list(means) == NAMES
    assert means["MRR@10"] == means["RR"] == pytest.approx((1 + 1 / 2) / 4, abs=1e-5)
    assert means["Recall@1"] == pytest.approx((1 / 2) / 4, abs=1e-5)
    assert means["Recall@10"] == pytest.approx(2 / 4, abs=1e-5)
    assert means["Success@1"] == pytest.approx(1 / 4, abs=1e-5)
    assert means["MAP"] == means["MAP@10"] == pytest.approx((1 + 1 / 2) / 4, abs=1e-5)
    ndcg = (1 + 2 * 0.63093) / (2 + 0.63093)  # b, the larger id, is first
    assert means["nDCG@10"] == pytest.approx((ndcg + 0.63093) / 4, abs=1e-5)


def test_blocks_of_queries_give_the_same_means(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = by_beir(folder, 1)
    monkeypatch.setattr(conventions, "BLOCK", 3)
    assert by_beir(folder, 1) == pytest.approx(whole, abs=1e-5)


def test_above_level_1_only_the_graded_measure_is_checked(folder: Path) -> None:
    assert list(by_beir(folder, 2)) == ["nDCG@10"]


def test_three_engines_agree(folder: Path) -> None:
    rescored = rescore(folder / "run.trec", dataset_judgements(load(str(folder))), NAMES)
    assert rescored.disagreements == ()
    assert rescored.means["MRR@10"] == pytest.approx(0.375)
    assert rescored.values["MRR@10"] == {"q1": 1.0, "q2": 0.5, "q3": 0.0, "q4": 0.0}


def test_another_convention_is_a_disagreement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beir.retrieval.evaluation import EvaluateRetrieval

    def shifted(*arguments: Any) -> dict[str, float]:
        return {"MRR@2": 0.37502, "MRR@10": 0.37502}

    monkeypatch.setattr(EvaluateRetrieval, "evaluate_custom", shifted)
    rescored = rescore(folder / "run.trec", dataset_judgements(load(str(folder))), ["MRR@10"])
    assert rescored.disagreements == ("BEIR's EvaluateRetrieval gives MRR@10 0.37502, and ranx and trec_eval 0.37500",)
