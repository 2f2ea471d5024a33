"""One judged table in every format, the list of all tables, and the claims in the README of a folder."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import CLAIMS, TRACK, board, cells, measured, write_track

from retrobench.data.groups import GROUPS
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.pages import find_stale, render_readme, write_readme
from retrobench.leaderboard.reproduce import reproduce
from retrobench.leaderboard.rows import append, folders

UNUSED = ("TOO UNCERTAIN", "WITHIN (one seed)", "OUTSIDE (one seed)")  # verdicts that none of these rows gets


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all tracks and claims but the test's own, except from a test that uses `shipped`."""
    monkeypatch.chdir(tmp_path)
    if "shipped" not in request.fixturenames:
        monkeypatch.setattr(folders, "PACKAGE", tmp_path / "package")


@pytest.fixture
def shipped() -> None:
    """Read the papers' claims too."""


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Return a board of bert and retromae, three seeds each. Retromae beats bert and its published number."""
    bert = [measured("bert", 0.299, 0), measured("bert", 0.300, 1), measured("bert", 0.301, 2)]
    retromae = [measured("retromae", 0.359, 0), measured("retromae", 0.360, 1), measured("retromae", 0.361, 2)]
    return board(tmp_path, *bert, *retromae)


def test_text(both: Path) -> None:
    text = reproduce("paper/table-1", leaderboard=both).text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "paper/table-1: MRR & more"
    assert lines[1] == "Paper (2020), arXiv:1, Table 1. Track small with adapt.corpus=[], round in-batch."
    assert "a BERT dev MRR@10 0.3000 0.3000 ± 0.0010 +0.0000 ± 0.0025 PASS 3 30" in lines
    assert "b RetroMAE dev MRR@10 0.3500 0.3600 ± 0.0010 a +0.0100 ± 0.0025 PASS (+) 3 30" in lines
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
    assert "Interval: half the width of the 95% t interval of the mean over seeds." in flat
    assert "ACM's badging policy v1.1" in flat
    commands = [line for line in lines if line.startswith("retrobench run")]
    plain = "retrobench run --track small --objective {} --set 'adapt.corpus=[]' {}--seed 1 --seed 2 --seed 3"
    assert commands == [
        plain.format("bert --objective retromae", ""),
        plain.format("retromae", "--set objective.mask_ratio=0.9 "),
        plain.format("retromae", "--set entrant.checkpoint=authors/model "),
    ]
    assert max(len(line) for line in text.splitlines() if "retrobench run" not in line) <= 120


def test_csv(both: Path) -> None:
    records = list(csv.DictReader(io.StringIO(reproduce("paper/table-1", "csv", leaderboard=both).text)))
    assert len(records) == 13
    assert records[3] == {
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
        "sd": records[3]["sd"],
        "delta": records[3]["delta"],
        "tolerance": "0.005",
        "tolerance_reason": records[3]["tolerance_reason"],
        "low": records[3]["low"],
        "high": records[3]["high"],
        "verdict": "PASS (+)",
        "reason": "",
        "seeds_needed": "",
        "kind": "replication: trained by this project's own code",
        "seeds": "3",
        "queries": "30",
        "beats": "BERT",
        "note": "",
    }
    assert float(records[3]["sd"]) == pytest.approx(0.001, abs=1e-12)
    # 4.30265 is the quantile of 2 degrees of freedom.
    assert float(records[3]["low"]) == pytest.approx(0.36 - 4.30265 * 0.001 / 3**0.5, abs=1e-7)
    assert float(records[3]["high"]) == pytest.approx(0.36 + 4.30265 * 0.001 / 3**0.5, abs=1e-7)
    assert float(records[3]["delta"]) == pytest.approx(0.01, abs=1e-12)
    assert (records[4]["header"], records[4]["published"], records[4]["printed"]) == ("R@1k", "0.97", "0.097")


def test_json(both: Path) -> None:
    document = json.loads(reproduce("paper/table-1", "json", leaderboard=both).text)
    assert document["table"] == "paper/table-1"
    assert document["paper"] == "Paper (2020)"
    first, second = document["parts"]
    assert first["track"] == "small"
    assert first["set"] == ["adapt.corpus=[]", "distil.*=*"]
    assert first["needs"]["d:dev"]["query_length"] == 32
    assert second["track"] is None
    assert second["reason"] == "no track measures questions"
    assert second["commands"] == []
    rows = first["cells"][0]["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert {row["identity"] for row in rows} == {"0123456789abcdef"}
    assert rows[0]["facts"]["d:dev"]["ties"] == 3
    assert second["cells"][0]["measured"] is None


def test_markdown(both: Path) -> None:
    lines = reproduce("paper/table-1", "md", leaderboard=both).text.splitlines()
    assert lines[0] == "### paper/table-1: MRR & more"
    line = next(line for line in lines if line.startswith("| b "))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "b",
        "RetroMAE",
        "dev MRR@10",
        "0.3500",
        "0.3600 ± 0.0010<sup>a</sup>",
        "+0.0100",
        "± 0.0025",
        "PASS (+)",
        "3",
        "30",
        "",
    ]
    assert lines.count("```sh") == 1


def test_latex(both: Path) -> None:
    text = reproduce("paper/table-1", "latex", leaderboard=both).text
    assert text.startswith("% needs \\usepackage{booktabs}")
    for name, count in (("table", 2), ("tabular", 3)):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == count
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [3, 3, 3]
    assert r"\begin{tabular}{lllrrrrlrrl}" in text
    assert (
        r"b & RetroMAE & dev MRR@10 & 0.3500 & 0.3600 $\pm$ 0.0010$^{\mathrm{a}}$ & +0.0100 & $\pm$ 0.0025 & PASS"
        in text
    )
    assert r"\caption{paper/table-1: MRR \& more}" in text
    for columns, body in re.findall(r"\\begin{tabular}{(\w+)}\n(.*?)\\end{tabular}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {line.count(" & ") for line in rows} == {len(columns) - 1}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_the_list_of_all(both: Path, shipped: None) -> None:
    report = reproduce(leaderboard=both)
    lines = [" ".join(line.split()) for line in report.text.splitlines()]
    assert lines[lines.index("Paper (2020)") + 2] == "table title track cells PASS PASS (+) FAIL NOT RUN N/A"
    assert "paper/table-1 MRR & more small 12 2 1 0 4 5" in lines
    assert "paper/table-1 questions - 1 0 0 0 1 0" in lines
    assert {"RetroMAE (EMNLP 2022)", "DupMAE (ACL 2023)", "BoW prediction (SIGIR 2024)"} < set(lines)
    assert max(map(len, report.text.splitlines())) <= 110
    own = listed(both)["paper/table-1"]
    assert own["verdicts"] == {"PASS": 2, "PASS (+)": 1, "FAIL": 0, "NOT RUN": 5, "N/A": 5} | dict.fromkeys(UNUSED, 0)
    assert own["tracks"] == ["small"]


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of all tables by id."""
    document = json.loads(reproduce(format="json", leaderboard=folder).text)
    return {record["table"]: record for record in document["tables"]}


def test_the_list_in_csv_has_a_column_for_each_verdict(both: Path, shipped: None) -> None:
    reader = csv.DictReader(io.StringIO(reproduce(format="csv", leaderboard=both).text))
    records = {record["table"]: record for record in reader}
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
        "TOO UNCERTAIN": "0",
        "WITHIN (one seed)": "0",
        "OUTSIDE (one seed)": "0",
        "NOT RUN": "5",
        "N/A": "5",
    }
    assert records["retromae/table-2"]["NOT RUN"] == "90"


def test_the_list_names_failures_and_refusals(tmp_path: Path) -> None:
    folder = board(tmp_path, measured(mrr=0.1, seed=0), measured(mrr=0.101, seed=1))
    assert reproduce(leaderboard=folder).exit_code == 1
    board(folder, measured("retromae", facts={}))
    report = reproduce(leaderboard=folder)
    assert report.exit_code == 3
    assert "Refused: " in report.text
    assert "does not say its documents" in report.text
    assert "does not say" in listed(folder)["paper/table-1"]["refused"]


def test_unknown_tables_and_formats_are_refused_with_a_suggestion(tmp_path: Path, shipped: None) -> None:
    with pytest.raises(RetrobenchError, match=r"Unknown table 'retromae/table-22'\. Did you mean 'retromae/table-2'\?"):
        reproduce("retromae/table-22", leaderboard=board(tmp_path))
    with pytest.raises(RetrobenchError, match=r"Unknown format 'htm'"):
        reproduce("retromae/table-2", "htm", leaderboard=tmp_path)


# --- the mean over BEIR's public sets


def test_a_mean_over_14_sets_is_derived_and_never_stands_beside_one_over_18(tmp_path: Path) -> None:
    names = [name for name in GROUPS["beir"].members if name != "beir/cqadupstack"]
    names.append(GROUPS["beir/cqadupstack"].average)
    columns = ", ".join(f'"{name} nDCG@10"' for name in (*names, "AVERAGE (18 sets)"))
    values = ", ".join(f"0.{number}" for number in range(40, 54))
    text = f"""
[dataset]
"AVERAGE (18 sets)" = {{ reason = "over 18" }}
[[table]]
id = "paper/table-1"
title = "BEIR"
paper = "P"
source = "S"
columns = [{columns}]
rows = [
    {{ model = "BERT", entrant = "bert", values = [{values}, 0.5] }},
    {{ model = "gap", reason = "a set is missing", values = ["not printed", {values[6:]}, 0.5] }},
]
"""
    (tmp_path / "beirs").mkdir()
    (tmp_path / "beirs" / "claims.toml").write_text(text)
    measures = {name: {"nDCG@10": 0.47} for name in (GROUPS["beir"].average, *names)}
    append(tmp_path / "beirs", measured(track="beirs", overrides={}, measures=measures, facts={}), {})
    report = reproduce("paper/table-1", "json", leaderboard=tmp_path)
    (part,) = json.loads(report.text)["parts"]
    assert part["derived"] == [{"model": "BERT", "published": pytest.approx(0.465), "measured": 0.47}]
    average = cells(report.text)["BERT", "AVERAGE (18 sets) nDCG@10"][0]
    assert (average["verdict"], average["measured"], average["published"]) == ("N/A", None, 0.5)
    shown = reproduce("paper/table-1", leaderboard=tmp_path).text
    assert "does not print the mean of its 14 cells" in shown
    assert "BERT 0.4650 0.4700" in [" ".join(line.split()) for line in shown.splitlines()]


# --- the README of a folder with claims


def test_the_readme_of_a_track_shows_its_claims_beside_its_rows(both: Path) -> None:
    small = both / "small"
    write_track(both, 'title = "Small"' + TRACK)
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
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "claims.toml").write_text('title = "Claims only"\ndescription = "Why."\n' + CLAIMS)
    assert find_stale(tmp_path) == [str(tmp_path / "other" / "README.md")]
    text = render_readme(tmp_path / "other")
    assert text.startswith(
        "# Claims only\n\n"
        "<!-- Rendered by `python -m retrobench.leaderboard` from claims.toml: edits are lost. -->\n\nWhy."
    )
    assert "No rows yet." not in text
    assert "## Results" not in text


def test_the_readme_of_a_track_without_claims_mentions_none(tmp_path: Path) -> None:
    (tmp_path / "track.toml").write_text("")
    assert "ublished" not in render_readme(tmp_path)
    assert "from rows.jsonl and track.toml: edits" in render_readme(tmp_path)
