"""`reproduce --conflicts`: every value that papers print for one system, beside the measured one."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import CLAIMS, board, facts, measured

from retrobench.errors import RetrobenchError
from retrobench.leaderboard.reproduce import reproduce
from retrobench.leaderboard.rows import folders

LATER = """
[[table]]
id = "later/table-1"
title = "Quoted"
paper = "Later (2021)"
source = "arXiv:3, Table 1"
round = "mined"
columns = ["d:dev MRR@10"]
rows = [
    { model = "RetroMAE (stage 2)", system = "RetroMAE", reason = "quoted by it", values = [0.361] },
    { model = "BERT", reason = "quoted by it", values = [0.3004] },
    { model = "Condenser", reason = "quoted by it", values = [0.34] },
]
"""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all tracks and claims but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "package")


def listed(system: str = "", folder: Path | None = None) -> list[dict[str, Any]]:
    report = reproduce(system, "json", leaderboard=folder, conflicts=True)
    conflicts: list[dict[str, Any]] = json.loads(report.text)["conflicts"]
    return conflicts


def conflicting(folder: Path, *rows: Any) -> Path:
    board(folder, *rows)
    (folder / "small" / "claims.toml").write_text(CLAIMS + LATER)
    return folder


def test_every_value_of_a_system_stands_beside_the_measured_one(tmp_path: Path, alone: None) -> None:
    folder = conflicting(tmp_path, measured("retromae", 0.351))
    conflicts = {(entry["system"], entry["dataset"]): entry["values"] for entry in listed(folder=folder)}
    assert conflicts.keys() == {("RetroMAE", "d:dev"), ("Condenser", "d:dev")}, ".3 and .3004 differ by rounding"
    first, second = conflicts["RetroMAE", "d:dev"]
    assert (first["published"], first["measured"], first["verdict"]) == (0.35, 0.351, "WITHIN (one seed)")
    assert (first["table"], first["source"]) == ("paper/table-1", "Paper (2020), arXiv:1, Table 1")
    assert first["setup"] == "MRR & more; round in-batch; adapt.corpus=[]"
    assert (second["published"], second["measured"], second["verdict"]) == (0.361, None, "NOT RUN")
    assert second["setup"] == "Quoted; RetroMAE (stage 2); round mined"


def test_text_and_csv(tmp_path: Path, alone: None) -> None:
    folder = conflicting(tmp_path)
    text = reproduce("Condenser", leaderboard=folder, conflicts=True).text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "Condenser, d:dev MRR@10"
    assert "0.3360 - NOT RUN MRR & more; round in-batch; adapt.corpus=[] Paper (2020), arXiv:1, Table 1" in lines
    assert "RetroMAE, d:dev MRR@10" not in lines
    table = reproduce("", "csv", leaderboard=folder, conflicts=True).text
    records = list(csv.DictReader(io.StringIO(table)))
    assert [(record["system"], record["published"]) for record in records] == [
        ("RetroMAE", "0.35"),
        ("RetroMAE", "0.361"),
        ("Condenser", "0.336"),
        ("Condenser", "0.34"),
    ]


def test_refused_rows_do_not_hide_the_prints(tmp_path: Path, alone: None) -> None:
    folder = conflicting(tmp_path, measured("retromae", facts={"d:dev": facts(documents=99)}))
    report = reproduce("RetroMAE", leaderboard=folder, conflicts=True)
    assert report.exit_code == 3
    assert "0.3610" in report.text
    assert "Refused: " in report.text


def test_unknown_systems_and_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=r"Unknown system 'RetroMEA'\. Did you mean 'RetroMAE'\?"):
        reproduce("RetroMEA", leaderboard=tmp_path, conflicts=True)
    with pytest.raises(RetrobenchError, match=r"--conflicts reads the rows of every track\. Leave out --rows\."):
        reproduce("RetroMAE", rows=tmp_path / "rows.jsonl", leaderboard=tmp_path, conflicts=True)


def test_the_prints_of_retromae_on_ms_marco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All five set-ups: an ablation, one round, two rounds, the target's corpus, a teacher."""
    monkeypatch.chdir(tmp_path)
    (values,) = [
        entry["values"]
        for entry in listed("RetroMAE")
        if (entry["dataset"], entry["measure"]) == ("msmarco-titled:dev", "MRR@10")
    ]
    published = {value["published"]: value["source"] for value in values}
    assert {0.3501, 0.3553, 0.3822, 0.393, 0.3928, 0.416} <= published.keys()
    setups = {value["setup"] for value in values if value["published"] == 0.3501}
    assert len(setups) == 1 and "objective.mask_ratio=0.15" in setups.pop()
    papers = {value["source"].partition(" (")[0] for value in values}
    assert papers == {"RetroMAE", "DupMAE", "BoW prediction"}
