"""The report as a file: its policy, its data, its escapes. `tests/browser` opens it in a browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leaderboard_rows import DATASET, MLM, RETROMAE, entrants, mean, row

from retrobench.core import Column, Table
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.pages import write_readme
from retrobench.leaderboard.report import drawing, write_report
from retrobench.leaderboard.report.figures import mean_records
from retrobench.leaderboard.report.markup import render_table
from retrobench.leaderboard.report.plots import curves
from retrobench.leaderboard.rows import append, read_curve, write_missing_curves
from retrobench.leaderboard.tables import show_track


@pytest.fixture
def page(tmp_path: Path) -> str:
    entrants(tmp_path / "other")
    return write_report(["other"], tmp_path / "out", tmp_path).file.read_text("utf-8")


def data(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    document: dict[str, Any] = json.loads(match[1])
    return document


def test_the_policy_names_every_script_by_its_hash_and_nothing_else(page: str) -> None:
    match = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert match
    policy = html.unescape(match[1])
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert len(scripts) == 4 and allowed == hashes
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_nothing_in_it_names_an_address_that_a_browser_would_load(page: str) -> None:
    document = page.split("<script>")[0]  # before the scripts, which hold such words
    assert not re.search(r"<(script|img|link|iframe|object)[^>]+(src|href)=", document)
    assert "url(" not in document
    assert "sourceMappingURL" not in page


def test_its_data_are_the_rows(page: str) -> None:
    (track,) = data(page)["tracks"]
    lines = {line["name"]: index for index, line in enumerate(track["lines"])}
    (column,) = [column for column in track["columns"] if column["measure"] == "MRR@10"]
    score = column["scores"][lines["retromae"]]
    assert score["values"] == pytest.approx([mean(RETROMAE)] * 3)


def test_values_by_question_are_packed_floats(page: str) -> None:
    (track,) = data(page)["tracks"]
    questions = track["questions"]
    position = questions["lines"].index("mlm")
    values = np.frombuffer(base64.b64decode(questions["values"][position]), "<f4")
    assert dict(zip(questions["ids"], values.tolist(), strict=True)) == pytest.approx(MLM, abs=1e-6)
    pair = {frozenset((questions["lines"][p["first"]], questions["lines"][p["second"]])): p for p in questions["pairs"]}
    assert abs(pair[frozenset(("retromae", "bert"))]["difference"]) == pytest.approx(0.2)


def test_no_name_can_leave_its_place(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script>"
    for seed in range(2):
        append(tmp_path / "other", row(name, seed, [0.1]), {})
    text = write_report(["other"], tmp_path / "out", tmp_path).file.read_text("utf-8")
    assert "alert(1)" in text
    assert "<script>alert" not in text
    (track,) = data(text)["tracks"]
    assert track["lines"][0]["entrant"] == name


def test_control_characters_in_names_reach_no_page(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    for seed in range(2):
        append(folder, row("bad\x1b[2J\n# heading\u202e", seed, [0.1], command="run\n```\n<b>"), {})
    page = write_report(["other"], tmp_path / "out", tmp_path).file.read_text("utf-8")
    readme = write_readme(folder).read_text("utf-8")
    for text in (
        readme,
        page.split("<script")[0],
        *(show_track("other", tmp_path, name) for name in ("text", "md", "latex", "csv")),
    ):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert "u001b[2J" in text
    assert "\n# heading" not in readme, "HTML and CSV hold a line end within a cell"
    assert "````sh\nrun ``` <b>\n````" in readme


def test_a_table_escapes_its_cells_and_puts_marks_behind_them() -> None:
    table = Table(
        [Column("a <b>"), Column("", "right", "marks"), Column("c", "right")], [["x & y", "ab", 1], ["z", "", None]]
    )
    text = str(render_table(table, "cap"))
    assert "<caption>cap</caption>" in text
    assert '<th scope="col">a &lt;b&gt;</th><th scope="col" class="right">c</th>' in text
    assert "<td>x &amp; y<sup>ab</sup></td>" in text
    assert '<td>z</td><td class="right"></td>' in text


def test_plots_are_drawn_for_readers_without_javascript(page: str) -> None:
    pytest.importorskip("vl_convert")
    assert page.split("<script>")[0].count("<svg") == len(data(page)["plots"]) > 0


def test_without_the_library_that_draws_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert "Drawn by JavaScript" in drawing.draw({})


def test_curves_are_means_over_seeds(tmp_path: Path) -> None:
    for seed, losses in enumerate([(5.0, 3.0), (4.0, 2.0)]):
        folder = tmp_path / "store" / "pretrain" / f"key{seed}"
        folder.mkdir(parents=True)
        records = [{"step": 10 * number, "mlm": loss, "gradient_norm": None} for number, loss in enumerate(losses)]
        (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        artifacts = {"pretrain": f"key{seed}", "score": f"s{seed}"}
        append(tmp_path / "other", row("mlm", seed, [0.1], artifacts=artifacts), {})
    assert len(write_missing_curves(tmp_path / "other", tmp_path / "store")) == 2
    text = write_report(["other"], tmp_path / "out", tmp_path).file.read_text("utf-8")
    (track,) = data(text)["tracks"]
    (curve,) = track["curves"]
    assert (curve["line"], curve["training"], curve["seeds"]) == ("mlm", "pretrain", 2)
    assert curve["values"] == {"step": [0, 10], "mlm": [4.5, 2.5], "gradient_norm": [None, None]}
    assert curve["seconds_per_step"] == pytest.approx(90 / 11), "the rows' 90 seconds for 11 steps"


def test_probes_are_means_at_their_own_steps() -> None:
    """A value that a seed never logged is left out, and the last probe has no loss beside it."""
    probed = [{"step": 0, "mlm": 5.0}, {"step": 4, "mlm": 4.0, "probe": 0.25}, {"step": 8, "probe": 0.5}]
    other = [{"step": 0, "mlm": 3.0}, {"step": 4, "mlm": 2.0, "probe": 0.75}, {"step": 8, "probe": 0.25}]
    means = {"step": [0, 4, 8], "mlm": [4.0, 3.0, None], "probe": [None, 0.5, 0.375]}
    assert mean_records([probed, other]) == means
    assert mean_records([probed, [{"step": 0, "mlm": 3.0}, {"step": 4, "mlm": 2.0}]]) == {
        "step": [0, 4],
        "mlm": [4.0, 3.0],
    }
    spec = curves([{"training": "pretrain", "line": "mlm", "values": means}])
    assert spec is not None
    assert [value["value"] for value in spec["data"]["values"]] == [4.0, 3.0]


def test_a_damaged_curve_is_named(tmp_path: Path) -> None:
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "key.json.gz").write_bytes(b"no gzip")
    with pytest.raises(RetrobenchError, match=r"key\.json\.gz.*--curves"):
        read_curve(tmp_path, "key")


def test_texts_can_be_left_out(tmp_path: Path) -> None:
    entrants(tmp_path / "other")
    assert data(write_report(["other"], tmp_path, tmp_path).file.read_text("utf-8"))["texts"][DATASET]
    assert data(write_report(["other"], tmp_path, tmp_path, has_texts=False).file.read_text("utf-8"))["texts"] == {}


def test_an_empty_header_is_no_header() -> None:
    assert "<thead><tr><td></td>" in render_table(Table([Column("")], []))


def test_faults_are_named(tmp_path: Path) -> None:
    entrants(tmp_path / "mini")
    with pytest.raises(RetrobenchError, match=r"nothing.*mini"):
        write_report(["nothing"], tmp_path / "out", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrobenchError, match="--output"):
        write_report(["mini"], tmp_path / "file", tmp_path)


def test_every_dataset_of_a_track_is_a_column(tmp_path: Path) -> None:
    for name in ("mlm", "bert"):
        measures = {DATASET: {"MRR@10": 0.3}, "cranfield": {"MRR@10": 0.2}}
        append(tmp_path / "other", row(name, 0, [], measures=measures), {})
    text = write_report(["other"], tmp_path / "out", tmp_path).file.read_text("utf-8")
    (track,) = data(text)["tracks"]
    assert [column["dataset"] for column in track["columns"]] == [DATASET, "cranfield"]
    assert track["questions"] is None
