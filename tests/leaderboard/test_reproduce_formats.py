"""One judged table in every format, the list of all tables, and the claims in the README of a folder."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import CLAIMS, board, cells, measured, squeezed_lines

from retrobench.data.rules import GROUPS, MEANS
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import folders
from retrobench.leaderboard.pages import find_stale, render_readme, write_readme
from retrobench.leaderboard.reproduce import reproduce
from retrobench.leaderboard.rows import append


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all tracks and claims but the test's own, except from a test that uses `shipped`."""
    monkeypatch.chdir(tmp_path)
    if "shipped" not in request.fixturenames:
        monkeypatch.setattr(folders, "__file__", str(tmp_path / "package" / "leaderboard" / "folders.py"))


@pytest.fixture
def shipped() -> None:
    """Read the papers' claims too."""


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Return a board of bert and retromae, three seeds each. Retromae beats bert and its published number."""
    bert = [measured("bert", 0.299, 0), measured("bert", 0.300, 1), measured("bert", 0.301, 2)]
    retromae = [measured("retromae", 0.359, 0), measured("retromae", 0.360, 1), measured("retromae", 0.361, 2)]
    return board(tmp_path, *bert, *retromae)


def read_records(text: str) -> list[dict[str, str]]:
    """Return the records of a CSV file."""
    return list(csv.DictReader(io.StringIO(text)))


def test_text(both: Path) -> None:
    text = reproduce("paper/table-1", leaderboard=both).text
    lines = squeezed_lines(text)
    assert lines[0] == "paper/table-1: MRR & more"
    assert lines[1] == "Paper (2020), arXiv:1, Table 1. Track small with adapt.corpus=[], round in-batch."
    assert "a BERT dev MRR@10 0.3000 0.3000 ± 0.0010 +0.0000 0.0050 PASS 3 30" in lines
    assert "b RetroMAE dev MRR@10 0.3500 0.3600 ± 0.0010 a +0.0100 0.0050 PASS (+) 3 30" in lines
    assert "BERT 0.3000 - 0.1000 1 PASS, 2 N/A [1] [2]" in lines
    assert "RetroMAE 0.3500 0.9700* 0.2000 1 PASS, 1 PASS (+), 1 N/A [2]" in lines
    assert "Condenser 0.3360 0.9680 0.4000 2 NOT RUN, 1 N/A [4] [2]" in lines
    assert "[4] NOT RUN: no such plugin." in lines
    assert "BERT 0.7000 NOT RUN [1]" in lines
    flat = " ".join(lines)
    assert "* RetroMAE, dev Recall@1000: printed as 0.097; a digit fell out (arXiv:2)." in flat
    assert "Headers as printed: R@1k for dev Recall@1000." in flat
    assert "Warning: RetroMAE is 0.0100 above the published d:dev MRR@10, more than the tolerance." in flat
    assert "BERT, RetroMAE: replication: trained by this project's own code; seeds 0, 1, 2; commit f00dfeedf0; " in flat
    assert "Identity of d:dev: 100 documents, 30 queries, 31 judgements, corpus sha256:cccccccc, qrels sha256:" in flat
    assert "lengths 32/140, dot, relevant from grade 1, ties broken 3, self-hits removed 0, missing queries 0." in flat
    assert "the simultaneous interval over seeds and 30 queries excludes 0" in flat
    assert "13 cells: 2 PASS, 1 PASS (+), 0 FAIL, 5 NOT RUN, 5 N/A. Exit code 0." in flat
    assert "ACM's badging policy v1.1" in flat
    other_lines = [line for line in text.splitlines() if "retrobench run" not in line]
    assert max(map(len, other_lines)) <= 120


def test_commands_run_entrants_of_equal_settings_together(both: Path) -> None:
    text = reproduce("paper/table-1", leaderboard=both).text
    commands = [line for line in squeezed_lines(text) if line.startswith("retrobench run")]
    start = "retrobench run --track small --objective"
    seeds = "--seed 1 --seed 2 --seed 3"
    assert commands == [
        f"{start} bert --objective retromae --set 'adapt.corpus=[]' {seeds}",
        f"{start} retromae --set 'adapt.corpus=[]' --set objective.mask_ratio=0.9 {seeds}",
        f"{start} retromae --set 'adapt.corpus=[]' --set entrant.checkpoint=authors/model {seeds}",
    ]


def test_csv(both: Path) -> None:
    records = read_records(reproduce("paper/table-1", "csv", leaderboard=both).text)
    assert len(records) == 13
    retromae = records[3]
    sd, delta = retromae.pop("sd"), retromae.pop("delta")
    assert float(sd) == pytest.approx(0.001, abs=1e-12)
    assert float(delta) == pytest.approx(0.01, abs=1e-12)
    assert retromae == {
        "table": "paper/table-1",
        "track": "small",
        "model": "RetroMAE",
        "entrant": "retromae",
        "dataset": "d:dev",
        "measure": "MRR@10",
        "header": "",
        "published": "0.35",
        "printed": "",
        "source": "arXiv:1, Table 1",
        "measured": str((0.359 + 0.360 + 0.361) / 3),
        "tolerance": "0.005",
        "tolerance_reason": "training: the larger of 0.005 and twice the deviation over 3 seeds",
        "verdict": "PASS (+)",
        "reason": "",
        "kind": "replication: trained by this project's own code",
        "seeds": "3",
        "queries": "30",
        "beats": "BERT",
        "note": "",
    }
    corrected = records[4]
    assert corrected["header"] == "R@1k"
    assert corrected["published"] == "0.97"
    assert corrected["printed"] == "0.097"


def test_json(both: Path) -> None:
    document = json.loads(reproduce("paper/table-1", "json", leaderboard=both).text)
    assert document["table"] == "paper/table-1"
    assert document["paper"] == "Paper (2020)"
    tracked, untracked = document["parts"]
    assert tracked["track"] == "small"
    assert tracked["set"] == ["adapt.corpus=[]", "distil.*=*"]
    assert tracked["needs"]["d:dev"]["query_length"] == 32
    assert untracked["track"] is None
    assert untracked["reason"] == "no track measures questions"
    assert untracked["commands"] == []
    assert untracked["cells"][0]["measured"] is None
    rows = tracked["cells"][0]["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert {row["identity"] for row in rows} == {"0123456789abcdef"}
    assert rows[0]["facts"]["d:dev"]["ties"] == 3


def test_markdown(both: Path) -> None:
    text = reproduce("paper/table-1", "md", leaderboard=both).text
    lines = squeezed_lines(text)
    assert lines[0] == "### paper/table-1: MRR & more"
    assert lines.count("```sh") == 1
    score = "0.3600 ± 0.0010<sup>a</sup>"
    assert f"| b | RetroMAE | dev MRR@10 | 0.3500 | {score} | +0.0100 | 0.0050 | PASS (+) | 3 | 30 | |" in lines


def test_latex(both: Path) -> None:
    text = reproduce("paper/table-1", "latex", leaderboard=both).text
    assert text.startswith("% needs \\usepackage{booktabs}")
    assert r"\caption{paper/table-1: MRR \& more}" in text
    assert r"\begin{tabular}{lllrrrrlrrl}" in text
    score = r"0.3600 $\pm$ 0.0010$^{\mathrm{a}}$"
    assert rf"b & RetroMAE & dev MRR@10 & 0.3500 & {score} & +0.0100 & 0.0050 & PASS (+)" in text
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")


def test_latex_tables_are_whole(both: Path) -> None:
    text = reproduce("paper/table-1", "latex", leaderboard=both).text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 3
    tables = re.findall(r"\\begin{tabular}{(\w+)}\n(.*?)\\end{tabular}", text, re.DOTALL)
    assert len(tables) == 3
    for columns, body in tables:
        separators = {line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")}
        assert separators == {len(columns) - 1}


def test_the_list_of_all(both: Path, shipped: None) -> None:
    report = reproduce(leaderboard=both)
    lines = squeezed_lines(report.text)
    paper = lines.index("Paper (2020)")
    assert lines[paper + 2] == "table title track cells PASS PASS (+) FAIL NOT RUN N/A"
    assert "paper/table-1 MRR & more small 12 2 1 0 4 5" in lines
    assert "paper/table-1 questions - 1 0 0 0 1 0" in lines
    assert {"RetroMAE (EMNLP 2022)", "DupMAE (ACL 2023)", "BoW prediction (SIGIR 2024)"} < set(lines)
    assert max(map(len, report.text.splitlines())) <= 110
    own = listed(both)["paper/table-1"]
    assert own["verdicts"] == {"PASS": 2, "PASS (+)": 1, "FAIL": 0, "NOT RUN": 5, "N/A": 5}
    assert own["tracks"] == ["small"]


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of all tables by id."""
    document = json.loads(reproduce(format="json", leaderboard=folder).text)
    return {record["table"]: record for record in document["tables"]}


def test_the_list_in_csv_has_a_column_for_each_verdict(both: Path, shipped: None) -> None:
    text = reproduce(format="csv", leaderboard=both).text
    records = {record["table"]: record for record in read_records(text)}
    assert records["paper/table-1"] == {
        "table": "paper/table-1",
        "title": "MRR & more; questions",
        "paper": "Paper (2020)",
        "tracks": "small",
        "cells": "13",
        "refused": "",
        "PASS": "2",
        "PASS (+)": "1",
        "FAIL": "0",
        "NOT RUN": "5",
        "N/A": "5",
    }
    assert records["retromae/table-2"]["NOT RUN"] == "90"


def test_the_list_names_failures_and_refusals(tmp_path: Path) -> None:
    folder = board(tmp_path, measured(mrr=0.1))
    assert reproduce(leaderboard=folder).exit_code == 1
    board(folder, measured("retromae", facts={}))
    report = reproduce(leaderboard=folder)
    assert report.exit_code == 3
    assert "Refused: " in report.text
    assert "does not say its documents" in report.text
    assert "does not say" in listed(folder)["paper/table-1"]["refused"]


def test_unknown_tables_and_formats_are_refused_with_a_suggestion(tmp_path: Path, shipped: None) -> None:
    leaderboard = board(tmp_path)
    with pytest.raises(RetrobenchError, match=r"Unknown table 'retromae/table-22'\. Did you mean 'retromae/table-2'\?"):
        reproduce("retromae/table-22", leaderboard=leaderboard)
    with pytest.raises(RetrobenchError, match=r"Unknown format 'htm'"):
        reproduce("retromae/table-2", "htm", leaderboard=leaderboard)


# --- the mean over BEIR's public sets


SETS_OF_BEIR = [name for name in GROUPS["beir"] if name != "beir/cqadupstack"] + [MEANS["beir/cqadupstack"]]
CLAIMS_OF_BEIR = """
[dataset]
"AVERAGE (18 sets)" = { reason = "over 18" }
[[table]]
id = "paper/table-1"
title = "BEIR"
paper = "P"
source = "S"
columns = [COLUMNS]
rows = [
    { model = "BERT", entrant = "bert", values = [0.40, VALUES, 0.5] },
    { model = "gap", reason = "a set is missing", values = ["not printed", VALUES, 0.5] },
]
"""


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Return a board with claims on 14 sets of BEIR, 0.40 to 0.53, and one row, 0.47 on each."""
    track = tmp_path / "beirs"
    track.mkdir()
    columns = [f'"{name} nDCG@10"' for name in (*SETS_OF_BEIR, "AVERAGE (18 sets)")]
    values = [f"0.{number}" for number in range(41, 54)]  # after the first, 0.40
    claims = CLAIMS_OF_BEIR.replace("COLUMNS", ", ".join(columns)).replace("VALUES", ", ".join(values))
    (track / "claims.toml").write_text(claims)
    measures = {name: {"nDCG@10": 0.47} for name in (MEANS["beir"], *SETS_OF_BEIR)}
    row = measured(track="beirs", overrides={}, measures=measures, facts={})
    append(track, row, {})
    return tmp_path


def test_a_mean_over_14_sets_is_derived_and_never_stands_beside_one_over_18(beir: Path) -> None:
    report = reproduce("paper/table-1", "json", leaderboard=beir)
    (section,) = json.loads(report.text)["parts"]
    assert section["derived"] == [{"model": "BERT", "published": pytest.approx(0.465), "measured": 0.47}]
    average = cells(report.text)["BERT", "AVERAGE (18 sets) nDCG@10"][0]
    assert average["verdict"] == "N/A"
    assert average["measured"] is None
    assert average["published"] == 0.5


def test_a_derived_mean_is_shown_below_the_table(beir: Path) -> None:
    text = reproduce("paper/table-1", leaderboard=beir).text
    assert "does not print the mean of its 14 cells" in text
    assert "BERT 0.4650 0.4700" in squeezed_lines(text)


# --- the README of a folder with claims


def test_the_readme_of_a_track_shows_its_claims_beside_its_rows(both: Path) -> None:
    small = both / "small"
    (small / "track.toml").write_text('title = "Small"\n')
    text = render_readme(small)
    assert "from claims.toml, rows.jsonl and track.toml: edits are lost." in text
    assert text.index("## Results") < text.index("## Published and measured") < text.index("## Cost")
    assert "### paper/table-1: MRR & more\n" in text
    assert "0.3600 ± 0.0010<sup>a</sup>" in text
    assert "13 cells: 2 PASS, 1 PASS (+), 0 FAIL, 5 NOT RUN, 5 N/A.\n" in text
    write_readme(small)
    assert find_stale(both) == []
    (small / "claims.toml").write_text(CLAIMS.replace("0.300", "0.301"))
    assert find_stale(both) == [str(small / "README.md")]


def test_the_readme_of_claims_without_a_track(tmp_path: Path) -> None:
    folder = tmp_path / "claims-only"
    folder.mkdir()
    (folder / "claims.toml").write_text('title = "Claims only"\ndescription = "Why."\n' + CLAIMS)
    assert find_stale(tmp_path) == [str(folder / "README.md")]
    text = render_readme(folder)
    comment = "<!-- Rendered by `python -m retrobench.leaderboard` from claims.toml: edits are lost. -->"
    assert text.startswith(f"# Claims only\n\n{comment}\n\nWhy.")
    assert "No rows yet." not in text
    assert "## Results" not in text


def test_the_readme_of_a_track_without_claims_mentions_none(tmp_path: Path) -> None:
    (tmp_path / "track.toml").write_text("")
    assert "ublished" not in render_readme(tmp_path)
    assert "from rows.jsonl and track.toml: edits" in render_readme(tmp_path)
