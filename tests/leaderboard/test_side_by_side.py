"""`retrobench compare`: two rows, two entrants or two run files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from leaderboard_rows import DATASET, MLM, around, entrants, filled, mean, row

from retrobench.errors import RetrobenchError
from retrobench.leaderboard import Judged, side_by_side
from retrobench.leaderboard.comparison import compare
from retrobench.leaderboard.rows import UnlikeError, append, find_row, per_query_loader, read

SHARED = Path(__file__).parents[2] / ".." / "shared" / "scorer-check"
NO_FILE = Judged()

QRELS = "q1 0 d1 1\nq2 0 d2 1\nq3 0 d3 1\nq4 0 d4 1\n"


def run(*ranks: int) -> str:
    """Return a TREC run that ranks the relevant document of each query at this rank, 0 for nowhere."""
    lines = []
    for number, relevant_rank in enumerate(ranks, 1):
        for rank in range(1, 5):
            document = f"d{number}" if rank == relevant_rank else f"x{rank}"
            lines.append(f"q{number} Q0 {document} {rank} {10 - rank} tag\n")
    return "".join(lines)


def test_two_runs_differ_on_known_questions(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text(QRELS)
    (tmp_path / "a").write_text(run(1, 2, 4, 0))
    (tmp_path / "b").write_text(run(2, 2, 1, 0))
    judged = Judged(qrels=tmp_path / "qrels")
    compared = side_by_side(str(tmp_path / "a"), str(tmp_path / "b"), judged, "MRR@10")
    assert compared.mean_a == pytest.approx((1 + 1 / 2 + 1 / 4) / 4)
    assert compared.mean_b == pytest.approx((1 / 2 + 1 / 2 + 1) / 4)
    assert compared.counts == (1, 2, 1)
    assert [(question.query, question.difference) for question in compared.questions[:2]] == [
        ("q3", -0.75),
        ("q1", 0.5),
    ]
    document = json.loads(compared.json())
    assert document["difference"] == pytest.approx(-0.0625)
    assert (document["wins"], document["ties"], document["losses"]) == (1, 2, 1)
    low, high = document["interval"]
    assert low < -0.0625 < high
    assert "over questions alone" in compared.text()
    assert "q3        0.2500  1.0000  -0.7500" in compared.text()


def test_two_entrants_have_the_interval_of_their_table(tmp_path: Path) -> None:
    folder = entrants(tmp_path / "mini")
    rows = read(folder)
    (table,) = compare(rows, per_query_loader(folder, rows))
    index = [line.entrant for line in table.lines].index("retromae")
    rival = [line.entrant for line in table.lines].index("bert")
    compared = side_by_side("mini:retromae", "mini:bert", NO_FILE, leaderboard=tmp_path)
    assert compared.pair.interval == dict(table.against(rival))[index].interval
    assert compared.pair.difference == pytest.approx(0.2)
    assert compared.dataset == DATASET
    assert "mini:retromae, 3 seeds" in compared.text()


def test_a_single_row_is_taken_as_it_is(tmp_path: Path) -> None:
    entrants(tmp_path / "mini")
    compared = side_by_side("mini:retromae", "mini:bert:1", NO_FILE, leaderboard=tmp_path)
    assert compared.fixed == ("mini:bert:1",)
    assert "Of mini:bert:1 there is one run" in compared.text()


def test_an_entrant_of_two_lines_is_named_with_its_representation(tmp_path: Path) -> None:
    folder = entrants(tmp_path / "mini")
    read_by_terms = row("bert", 1, [mean(MLM)], representation="terms", artifacts={"score": "terms"})
    append(folder, read_by_terms, {DATASET: {"MRR@10": MLM}})
    with pytest.raises(RetrobenchError, match=r"2 lines .*'mini:bert'.*'mini:bert \(terms\)', 'mini:bert \(cls\)'"):
        side_by_side("mini:retromae", "mini:bert", NO_FILE, leaderboard=tmp_path)
    compared = side_by_side("mini:retromae (cls)", "mini:bert (cls)", NO_FILE, leaderboard=tmp_path)
    assert compared.pair.difference == pytest.approx(0.2)
    with pytest.raises(RetrobenchError, match=r"2 rows .*'mini:bert:1'.*mini:bert \(cls\):1.*mini:bert \(terms\):1"):
        find_row("mini:bert:1", tmp_path)
    _, line = find_row("mini:bert (terms):1", tmp_path)
    assert line.row is not None
    assert line.row.representation == "terms"


def test_unlike_systems_are_refused(tmp_path: Path) -> None:
    entrants(tmp_path / "mini")
    with pytest.raises(RetrobenchError, match=r"dataset of both.*beir/arguana.*retrobench/squad/test"):
        side_by_side("mini:bert", "mini:mlm", Judged("beir/arguana"), leaderboard=tmp_path)
    with pytest.raises(RetrobenchError, match=r"measure of both.*nDCG@10.*MRR@10"):
        side_by_side("mini:bert", "mini:mlm", NO_FILE, "nDCG@10", leaderboard=tmp_path)
    with pytest.raises(RetrobenchError, match=r"row.*mini:nobody"):
        side_by_side("mini:nobody", "mini:mlm", NO_FILE, leaderboard=tmp_path)


def test_systems_with_other_questions_are_refused(tmp_path: Path) -> None:
    values = around(0.3, 0.1)
    filled(tmp_path / "mini", {"bert": values, "mlm": {query: values[query] for query in list(values)[:20]}}, seeds=1)
    with pytest.raises(UnlikeError, match="differing in"):
        side_by_side("mini:bert:0", "mini:mlm:0", NO_FILE, leaderboard=tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, which holds published runs")
def test_published_runs_have_their_published_means() -> None:
    bm25, llama = (str(SHARED / "runs" / f"{name}.dl19.top100.trec") for name in ("BM25", "REP_LLAMA"))
    compared = side_by_side(bm25, llama, Judged(qrels=SHARED / "qrels.dl19-passage.txt"), "nDCG@10")
    assert round(compared.mean_a, 4) == 0.5058
    assert compared.counts == (8, 0, 35)
