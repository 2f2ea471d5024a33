"""Published beside measured: verdicts, tolerances and refusals equal those worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import SETTINGS, board, cells, facts, measured, row

from retrobench.errors import RetrobenchError
from retrobench.leaderboard.comparison import group_lines
from retrobench.leaderboard.reproduce import reproduce
from retrobench.leaderboard.reproduce.verdicts import VERDICTS, describe_kind
from retrobench.leaderboard.rows import Row, UnlikeError, append, folders


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all tracks and claims but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "package")


def judged(folder: Path, model: str = "BERT") -> tuple[str, int]:
    """Return a model's verdict on MRR@10, and the exit code."""
    (cell,) = judged_cells(folder)[model, "d:dev MRR@10"]
    return cell["verdict"], reproduce("paper/table-1", "json", leaderboard=folder).exit_code


def judged_cells(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    return cells(reproduce("paper/table-1", "json", leaderboard=folder).text)


# --- verdicts


@pytest.mark.parametrize(
    ("mrr", "verdict"),
    [
        (0.3000, "WITHIN (one seed)"),
        (0.2951, "WITHIN (one seed)"),
        (0.2950, "WITHIN (one seed)"),  # at the tolerance: 0.3 - 0.295 is a little more than 0.005 in binary
        (0.2949, "OUTSIDE (one seed)"),
        (0.3050, "WITHIN (one seed)"),
        (0.3051, "OUTSIDE (one seed)"),
    ],
)
def test_one_seed_never_passes_and_never_fails(tmp_path: Path, mrr: float, verdict: str) -> None:
    assert judged(board(tmp_path, measured(mrr=mrr))) == (verdict, 0)


# Three seeds, d apart: the deviation is d, and half the interval's width 4.3027 d / sqrt(3) = 2.4841 d.
@pytest.mark.parametrize(
    ("mean", "apart", "verdict", "code"),
    [
        (0.300, 0.002, "PASS", 0),  # half the width is 0.00497
        (0.300, 0.0021, "TOO UNCERTAIN", 0),  # 0.00522
        (0.304, 0.001, "TOO UNCERTAIN", 0),  # 0.00248, and 0.001 are left
        (0.304, 0.0004, "PASS", 0),  # 0.00099
        (0.290, 0.002, "FAIL", 1),  # up to 0.29497
        (0.290, 0.0021, "TOO UNCERTAIN", 0),  # up to 0.29522
        (0.310, 0.002, "PASS (+)", 0),  # down to 0.30503
        (0.310, 0.0021, "TOO UNCERTAIN", 0),
    ],
)
def test_the_interval_over_seeds_decides(tmp_path: Path, mean: float, apart: float, verdict: str, code: int) -> None:
    assert judged(board(tmp_path, *three_seeds(mean, apart))) == (verdict, code)


def three_seeds(mean: float, apart: float) -> list[Row]:
    return [measured(mrr=mean + (seed - 1) * apart, seed=seed) for seed in range(3)]


# Half the width of the interval of n seeds is t d / sqrt(n), with the quantile t of n - 1 degrees of freedom.
@pytest.mark.parametrize(
    ("mean", "apart", "needed", "settled"),
    [
        (0.300, 0.0021, 4, "PASS"),  # 0.005 are left: 3.1824 * 0.0021 / 2 = 0.0033
        (0.302, 0.0040, 10, "PASS"),  # 0.003: 2.3060 * 0.004 / 3 = 0.00307 of 9, 2.2622 * 0.004 / 3.1623 = 0.00286
        (0.290, 0.0040, 5, "FAIL"),  # 0.005: 3.1824 * 0.004 / 2 = 0.00636 of 4, 2.7764 * 0.004 / 2.2361 = 0.00497
        (0.310, 0.0040, 5, "PASS (+)"),
    ],
)
def test_a_wide_interval_names_the_seeds_that_would_do(
    tmp_path: Path, mean: float, apart: float, needed: int, settled: str
) -> None:
    (cell,) = judged_cells(board(tmp_path, *three_seeds(mean, apart)))["BERT", "d:dev MRR@10"]
    assert (cell["verdict"], cell["seeds"], cell["seeds_needed"]) == ("TOO UNCERTAIN", 3, needed)
    assert f"{needed} seeds would do for {settled}, if" in cell["reason"]
    assert cell["low"] == pytest.approx(mean - 4.30265 * apart / 3**0.5, abs=1e-7)
    assert cell["high"] == pytest.approx(mean + 4.30265 * apart / 3**0.5, abs=1e-7)


def test_no_number_of_seeds_settles_a_mean_at_the_limit(tmp_path: Path) -> None:
    (cell,) = judged_cells(board(tmp_path, *three_seeds(0.305, 0.004)))["BERT", "d:dev MRR@10"]
    assert (cell["verdict"], cell["seeds_needed"]) == ("TOO UNCERTAIN", None)
    assert "more than 1,000 seeds would do" in cell["reason"]


def test_the_spread_does_not_widen_the_tolerance(tmp_path: Path) -> None:
    (cell,) = judged_cells(board(tmp_path, *three_seeds(0.28, 0.01)))["BERT", "d:dev MRR@10"]
    assert (cell["tolerance"], cell["verdict"]) == (0.005, "TOO UNCERTAIN")
    assert cell["sd"] == pytest.approx(0.01, abs=1e-12)
    assert cell["delta"] == pytest.approx(-0.02, abs=1e-12)
    assert cell["tolerance_reason"].startswith("training: 0.005 to either side")
    assert cell["queries"] == 30
    assert cell["kind"].startswith("replication")


@pytest.mark.parametrize(("mrr", "verdict"), [(0.3504, "PASS"), (0.3506, "PASS (+)"), (0.3494, "FAIL")])
def test_the_tolerance_of_a_released_checkpoint_without_training_is_small(
    tmp_path: Path, mrr: float, verdict: str
) -> None:
    untrained = measured("retromae", mrr, checkpoint="authors/model", artifacts={"encode": "a", "score": "b"})
    (cell,) = judged_cells(board(tmp_path, untrained))["RetroMAE", "d:dev MRR@10"]
    assert (cell["verdict"], cell["tolerance"]) == (verdict, 5e-4)
    assert cell["tolerance_reason"].startswith("inference: 0.0005 to either side, since nothing is drawn at random")
    assert cell["kind"] == "reproduction of inference: authors/model, as released"


def test_kinds() -> None:
    (trained,) = group_lines([measured("retromae")])
    assert describe_kind(trained) == "replication: trained by this project's own code"
    (fine_tuned,) = group_lines([measured("retromae", checkpoint="authors/model")])
    assert describe_kind(fine_tuned) == "reproduction: authors/model, released by the authors and fine-tuned here"


def test_unmeasured_cells_have_a_reason(tmp_path: Path) -> None:
    without_mrr = measured(measures={"d:dev": {"Recall@1000": 0.9}})
    report = reproduce("paper/table-1", "json", leaderboard=board(tmp_path, without_mrr))
    verdicts = {key: (cell["verdict"], cell["reason"]) for key, (cell,) in cells(report.text).items()}
    assert verdicts == {
        ("BERT", "d:dev MRR@10"): ("NOT RUN", "the rows have no MRR@10 on d:dev"),
        ("BERT", "d:dev Recall@1000"): ("N/A", "the paper prints none"),
        ("BERT", "secret MRR@10"): ("N/A", "its corpus needs a licence"),
        ("RetroMAE", "d:dev MRR@10"): ("NOT RUN", "no row of retromae by this recipe on track small"),
        ("RetroMAE", "d:dev Recall@1000"): ("NOT RUN", "no row of retromae by this recipe on track small"),
        ("RetroMAE", "secret MRR@10"): ("N/A", "its corpus needs a licence"),
        ("mask .9", "d:dev MRR@10"): ("NOT RUN", "no row of retromae by this recipe on track small"),
        ("mask .9", "d:dev Recall@1000"): ("NOT RUN", "no row of retromae by this recipe on track small"),
        ("mask .9", "secret MRR@10"): ("N/A", "its corpus needs a licence"),
        ("Condenser", "d:dev MRR@10"): ("NOT RUN", "no such plugin"),
        ("Condenser", "d:dev Recall@1000"): ("NOT RUN", "no such plugin"),
        ("Condenser", "secret MRR@10"): ("N/A", "its corpus needs a licence"),
        ("BERT", "questions R@5"): ("NOT RUN", "no track measures questions"),
    }
    assert report.exit_code == 0
    assert json.loads(report.text)["verdicts"] == dict.fromkeys(VERDICTS, 0) | {"NOT RUN": 8, "N/A": 5}


def test_the_rows_of_a_claim_are_those_of_its_recipe(tmp_path: Path) -> None:
    """Another round, other settings, another representation or another track measure something else."""
    ablated = SETTINGS["retromae"] | {"mask_ratio": 0.9}
    rows = [
        measured("retromae", 0.1, round="mined"),
        measured("retromae", 0.1, overrides={}),
        measured("retromae", 0.1, overrides={"adapt.corpus": [], "pretrain.steps": 20}, identity="f" * 16),
        measured("retromae", 0.1, settings=SETTINGS["retromae"] | {"decoder_reduction": "sum"}),
        measured("retromae", 0.1, representation="mean"),
        measured("retromae", 0.1, track="another"),
    ]
    rows = [replace(row, artifacts={"finetune": str(number)}) for number, row in enumerate(rows)]
    folder = board(tmp_path, *rows)
    assert judged(folder, "RetroMAE") == ("NOT RUN", 0)
    harmless = {"adapt.corpus": [], "distil.teacher": "", "pretrain.log_every": 5}
    board(folder, measured("retromae", 0.351, overrides=harmless, identity="e" * 16))
    board(folder, measured("retromae", 0.331, settings=ablated, artifacts={"finetune": "ablated"}))
    assert judged(folder, "RetroMAE") == ("WITHIN (one seed)", 0)
    assert judged(folder, "mask .9") == ("WITHIN (one seed)", 0)
    (default,) = judged_cells(folder)["RetroMAE", "d:dev MRR@10"]
    assert (default["measured"], default["note"]) == (0.351, "distil.teacher= (claimed none)")
    (ablation,) = judged_cells(folder)["mask .9", "d:dev MRR@10"]
    assert ablation["measured"] == 0.331


def test_a_row_of_the_round_that_was_chosen_counts_for_it(tmp_path: Path) -> None:
    assert judged(board(tmp_path, measured(round="", selection={"in-batch": 0.2, "mined": 0.1}))) == (
        "WITHIN (one seed)",
        0,
    )


def test_a_replication_and_a_reproduction_stand_apart(tmp_path: Path) -> None:
    folder = board(tmp_path, measured("retromae", 0.351), measured("retromae", 0.349, checkpoint="authors/model"))
    replication, reproduction = judged_cells(folder)["RetroMAE", "d:dev MRR@10"]
    assert replication["measured"] == 0.351
    assert replication["kind"].startswith("replication")
    assert reproduction["measured"] == 0.349
    assert reproduction["kind"].startswith("reproduction")


# --- identity


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"documents": 99}, "has documents 99 on d:dev, and paper/table-1 needs 100"),
        ({"queries": 29}, "has queries 29 on d:dev, and paper/table-1 needs 30"),
        ({"titles": "[SEP]"}, "has titles [SEP] on d:dev, and paper/table-1 needs space"),
        ({"query_length": 64}, "has query_length 64 on d:dev, and paper/table-1 needs 32"),
        ({"passage_length": 144}, "has passage_length 144 on d:dev, and paper/table-1 needs 140"),
        ({"similarity": "cos"}, "has similarity cos on d:dev, and paper/table-1 needs dot"),
        ({"qrels": "e" * 64}, f"has qrels {'e' * 64} on d:dev, and paper/table-1 needs {'d' * 64}"),
        ({"judgements": 30}, "has judgements 30 on d:dev, and paper/table-1 needs 31"),
    ],
)
def test_a_row_on_other_data_is_refused(tmp_path: Path, changed: dict[str, Any], difference: str) -> None:
    folder = board(tmp_path, measured("retromae"), measured(facts={"d:dev": facts(**changed)}))
    with pytest.raises(UnlikeError) as raised:
        reproduce("paper/table-1", leaderboard=folder)
    assert f"{folder}/small/rows.jsonl:2: the row of bert, track small, {difference}." in str(raised.value)
    assert raised.value.exit_code == 3


def test_a_row_without_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnlikeError, match="does not say its documents on d:dev, and paper/table-1 needs 100"):
        reproduce("paper/table-1", leaderboard=board(tmp_path, measured(facts={})))


def test_rows_on_unlike_files_are_refused_naming_both(tmp_path: Path) -> None:
    folder = board(tmp_path, measured(), measured("retromae", facts={"d:dev": facts(corpus="f" * 64)}))
    with pytest.raises(
        UnlikeError, match=r"bert \(seed 0\) of .* and retromae \(seed 0\) of .*: on d:dev their corpus"
    ):
        reproduce("paper/table-1", leaderboard=folder)


def test_rows_of_a_track_that_was_changed_are_refused(tmp_path: Path) -> None:
    folder = board(tmp_path, measured(), measured("retromae", identity="f" * 16))
    with pytest.raises(
        UnlikeError, match=r"bert of .* \(01234567\) and retromae of .* \(ffffffff\) .* was changed bet"
    ):
        reproduce("paper/table-1", leaderboard=folder)


def test_chosen_rows_may_be_of_any_track_on_the_data_of_the_table(tmp_path: Path) -> None:
    chosen = board(tmp_path / "chosen", measured(track="mine", overrides={"pretrain.steps": 9}, mrr=0.299)) / "small"
    file = chosen / "rows.jsonl"
    report = reproduce("paper/table-1", "json", file, board(tmp_path / "ours"))
    (cell,) = cells(report.text)["BERT", "d:dev MRR@10"]
    assert (cell["verdict"], cell["measured"]) == ("WITHIN (one seed)", 0.299)
    assert cell["note"] == "track mine, adapt.corpus=none (claimed []), pretrain.steps=9 (claimed none)"
    assert json.loads(report.text)["unclaimed"] == []
    append(chosen, measured(round="mined", artifacts={"finetune": "second"}), {})
    markdown = reproduce("paper/table-1", "md", file, tmp_path / "ours").text
    assert f"Rows that measure nothing here: {file}:2 (bert)." in markdown
    append(chosen, measured("retromae", track="mine", overrides={"pretrain.steps": 8}, identity="8" * 16), {})
    with pytest.raises(
        UnlikeError, match=r"retromae .*unlike identity: they differ in pretrain\.steps\. Give the rows"
    ):
        reproduce("paper/table-1", "json", file, tmp_path / "ours")


def test_chosen_rows_on_other_data_are_refused(tmp_path: Path) -> None:
    folder = board(tmp_path)
    append(tmp_path / "other", row("bm25", None, [0.2]), {})
    with pytest.raises(
        UnlikeError,
        match=r"other/rows\.jsonl:1: the row of bm25, track mini, was measured on retrobench/squad/test, and "
        r"paper/table-1 is about d:dev\. Numbers of unlike identity share no table\.",
    ):
        reproduce("paper/table-1", rows=tmp_path / "other" / "rows.jsonl", leaderboard=folder)
    with pytest.raises(RetrobenchError, match=r"Cannot read rows from .*none\.jsonl: .*Name a rows\.jsonl"):
        reproduce("paper/table-1", rows=tmp_path / "none.jsonl", leaderboard=folder)
