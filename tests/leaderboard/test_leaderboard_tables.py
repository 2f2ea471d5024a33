"""Every format shows equal numbers, and the README of a track shows the contents of its files."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from leaderboard_rows import BERT, DATASET, RETROMAE, entrants, mean, row, shifted, squeezed_lines

from retrobench.core import fold_text, set_width
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.comparison import Board
from retrobench.leaderboard.pages import find_stale, main, render_readme, write_readme
from retrobench.leaderboard.rows import Row, append, folders, read
from retrobench.leaderboard.tables import FORMATS, View, clock, render, show_row, show_track, summarise_run


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    return entrants(tmp_path / "leaderboards" / "toy")


BERT_VALUES = {DATASET: {"MRR@10": BERT}}


def append_row(folder: Path, new_row: Row) -> None:
    """Append a row with values by query that average to its MRR@10. Their differences from bert's scatter by 0.05."""
    gain = new_row.measures[DATASET]["MRR@10"] - mean(BERT)
    values = shifted(BERT, gain - 0.05, gain + 0.05)
    append(folder, new_row, {DATASET: {"MRR@10": values}})


def cells(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table, without the spaces around them."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown(mini: Path) -> None:
    bm25 = row("bm25", None, [mean(BERT)], representation="bm25", cost={"search": {"seconds": 3661.0}})
    append(mini, bm25, BERT_VALUES)
    better = shifted(BERT, 0.04, 0.04)
    append(mini, row("bert", 3, [mean(better)]), {DATASET: {"MRR@10": better}})
    page = show_track("toy", mini.parent, "md")
    header, rule, *body = page.split("\n\n")[1].splitlines()
    costs = ["time", "pre-training", "tokens/s", "peak memory"]
    assert cells(header) == ["", "entrant", "representation", "seeds", "MRR@10", "rank", *costs]
    assert rule.endswith("-: |"), "numbers are aligned on the right"
    trained = ["0:03:35", "0:01:30", "25000", "2.00 GiB"]
    assert [cells(line) for line in body] == [
        ["a", "retromae", "cls", "3", "0.4500 ± 0.0000<sup>bcd</sup>", "1", *trained],
        ["b", "bert", "cls", "4", "0.2600 ± 0.0200", "2-4", *trained],
        ["c", "mlm", "cls", "3", "0.2510 ± 0.0000", "2-4", *trained],
        ["d", "bm25", "bm25", "-", "0.2500 ± -", "2-4", "1:01:01", "-", "-", "-"],
    ]
    plain = [header, rule, *body[1:]]  # marks are wider than they look
    assert len(set(map(len, plain))) == 1, "columns stand under each other"


def test_a_second_table_holds_the_differences_from_the_baseline(mini: Path) -> None:
    lines = show_track("toy", mini.parent, "md", View(baseline="bert")).split("\n\n")[2].splitlines()
    header = ["", "minus bert", "difference", "95 % interval", "simultaneous", "d", "seeds wanted"]
    assert cells(lines[0]) == header
    # retromae gains .19 and .21 in turn: deviation .01 * sqrt(30/29), error that / sqrt(30), t of 29 degrees 2.0452.
    assert cells(lines[2])[:4] == ["a", "retromae", "+0.2000", "[+0.1962, +0.2038]"]
    assert cells(lines[3])[:4] == ["b", "mlm", "+0.0010", "[-0.0032, +0.0052]"]
    assert cells(lines[2])[5:] == ["+19.66", "3"]
    assert cells(lines[3])[5:] == ["+0.09", "none"]
    assert len(lines) == 4


def test_text(mini: Path) -> None:
    text = show_track("toy", mini.parent)
    lines = text.splitlines()
    squeezed = squeezed_lines(text)
    assert lines[0] == "Track mini as it is (identity 01234567)"
    assert lines[2].split() == ["entrant", "representation", "seeds", "MRR@10", "beats", "rank", "time"]
    assert lines[3].split() == ["a", "retromae", "cls", "3", "0.4500", "±", "0.0000", "bc", "1", "0:03:35"]
    assert lines[5].split() == ["c", "bert", "cls", "3", "0.2500", "±", "0.0000", "2-3", "0:03:35"]
    assert lines[3].index("0.4500") == lines[5].index("0.2500")
    assert "a retromae cls 0:01:30 25000 2.00 GiB" in squeezed
    assert lines[-1] == f"Rows: {mini / 'rows.jsonl'}"


def test_csv(mini: Path) -> None:
    text = show_track("toy", mini.parent, "csv")
    records = list(csv.DictReader(io.StringIO(text)))
    assert [record["entrant"] for record in records] == ["retromae", "mlm", "bert"]
    assert float(records[0][f"{DATASET} MRR@10"]) == mean(RETROMAE)
    expected = {
        "track": "mini",
        "identity": "0123456789abcdef",
        "line": "a",
        "seeds": "3",
        "beats": "bc",
        "first_rank": "1",
        "last_rank": "1",
        "seconds": "215.0",
        "peak_memory_bytes": "2147483648.0",
        f"{DATASET} MRR@10 sd": "0.0",
    }
    assert expected.items() <= records[0].items()


def test_json(mini: Path) -> None:
    document = json.loads(show_track("toy", mini.parent, "json"))
    table = document["tables"][0]
    assert table["main"] == [DATASET, "MRR@10"]
    assert table["baseline"] == "b"
    assert (table["queries"], table["clusters"], table["clustered_by"]) == (30, 30, None)
    assert table["lines"][0]["measures"] == {DATASET: {"MRR@10": {"mean": mean(RETROMAE), "sd": 0.0}}}
    assert [pair["first"] + pair["second"] for pair in table["pairs"]] == ["ab", "ac", "bc"]
    assert [pair["significant"] for pair in table["pairs"]] == [True, True, False]
    low, high = table["pairs"][2]["simultaneous"]
    assert low < table["pairs"][2]["difference"] < high
    assert {"interval", "effect", "p", "flip_p", "smallest_detectable", "seeds_wanted"} <= table["pairs"][2].keys()
    assert [Row(**raw) for raw in table["rows"]] == read(mini)


def test_latex(mini: Path) -> None:
    worse = shifted(BERT, -0.1, -0.1)
    append(mini, row("bow_mae:50%", 0, [mean(worse)]), {DATASET: {"MRR@10": worse}})
    text = show_track("toy", mini.parent, "latex")
    lines = text.splitlines()
    top = lines.index(r"\toprule")
    middle = lines.index(r"\midrule")
    bottom = lines.index(r"\bottomrule")
    assert lines[top - 1] == r"\begin{tabular}{lllrrrrrrr}"
    assert lines[bottom + 1] == r"\end{tabular}"
    body = lines[middle + 1 : bottom]
    assert len(body) == 4
    for line in (lines[top + 1], *body):
        assert line.endswith(r" \\")
        assert line.count(" & ") == 9
    assert body[0].startswith(r"a & retromae & cls & 3 & 0.4500 $\pm$ 0.0000$^{\mathrm{bc}}$ & 1-2 & 0:03:35 & ")
    assert r" bow\_mae:50\% & " in body[3]
    assert [text.count(rf"\begin{{{name}}}") for name in ("table", "tabular")] == [1, 2]
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert text.replace(r"\$", "").count("$") % 2 == 0


def test_clock() -> None:
    assert clock(None) == "-"
    assert clock(0.4) == "0:00:00"
    assert clock(59.6) == "0:01:00"
    assert clock(3599) == "0:59:59"
    assert clock(36125) == "10:02:05"


def test_an_unknown_format_names_the_known(mini: Path) -> None:
    message = r"Unknown format 'latx'\. Did you mean 'latex'\? Known: csv, json, latex, md, text"
    with pytest.raises(RetrobenchError, match=message):
        show_track("toy", mini.parent, "latx")


# Nobody reads 25 datasets side by side, so that they are lines and the entrants columns.
MANY_MEASURES = {f"beir/set-{number}": {"nDCG@10": 0.1 + number / 100} for number in range(25)}
MANY = [
    row("bert", measures=MANY_MEASURES),
    row("mlm", 0, measures=MANY_MEASURES),
    row("mlm", 1, measures=MANY_MEASURES),
]


def test_many_measures_are_lines_and_entrants_columns() -> None:
    lines = squeezed_lines(render(Board(tuple(MANY)), "text"))
    assert "entrant representation seeds beir/set-0 nDCG@10 time" in lines
    assert "dataset measure a bert b mlm" in lines
    assert "beir/set-24 nDCG@10 0.3400 ± - 0.3400 ± 0.0000" in lines
    dataset_lines = [line for line in lines if line.startswith("beir/set-")]
    assert len(dataset_lines) == 25


def test_many_measures_in_the_other_formats() -> None:
    markdown = render(Board(tuple(MANY)), "md")
    assert "| dataset     | measure |     a bert |           b mlm |" in markdown
    latex = render(Board(tuple(MANY)), "latex")
    assert latex.count(r"\begin{tabular}") == 2
    csv_file = io.StringIO(render(Board(tuple(MANY)), "csv"))
    header = next(csv.reader(csv_file))
    assert len(header) > 2 * 25, "a spreadsheet has room"


def test_many_entrants_are_shown_in_blocks() -> None:
    five = [row(f"entrant-{number}", measures=MANY_MEASURES) for number in range(5)]
    text = render(Board((*MANY, *five)), "text")
    assert text.count("beir/set-24") == 2, "4 of 7 entrants, and 3 below"
    table_lines = [line for line in text.splitlines() if not line.startswith(("Mean ", "Diff"))]
    assert max(map(len, table_lines)) < 120


@pytest.mark.parametrize("format", FORMATS)
def test_several_datasets_are_named_in_the_columns(format: str) -> None:
    measures = {"beir/scifact/test": {"nDCG@10": 0.6}, "beir/nfcorpus/test": {"nDCG@10": 0.3}}
    text = render(Board((row(measures=measures),)), format)
    assert text.index("beir/scifact/test") < text.index("beir/nfcorpus/test")


def test_the_summary_of_a_run_fits_a_terminal_and_names_the_files(mini: Path, request: pytest.FixtureRequest) -> None:
    files = {"rows": Path("toy/rows.jsonl"), "encoder": Path("store/encoder")}
    set_width(80)
    request.addfinalizer(lambda: set_width(None))
    lines = fold_text(summarise_run(read(mini), mini, files)).splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[3].split()) == "a retromae cls 3 0.4500 ± 0.0000 bc 1 0:03:35"
    assert "encoder  store/encoder" in lines


def test_a_users_rows_stand_beside_the_shipped_rows(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PACKAGE", mini.parents[1])
    monkeypatch.chdir(mini.parent)  # no ./leaderboards there
    shipped = show_track("toy")
    assert shipped.endswith(f"Rows: {mini / 'rows.jsonl'}")
    assert "*" not in shipped
    own = tmp_path / "own"
    better = shifted(RETROMAE, 0.1, 0.1)
    append(own / "toy", row("retromae", 0, [mean(better)]), {DATASET: {"MRR@10": better}})
    text = show_track("toy", own)
    squeezed = squeezed_lines(text)
    assert "a retromae * cls 1 0.5500 ± - 1-4 0:03:35" in squeezed
    assert "b retromae cls 3 0.4500 ± 0.0000 cd 1-2 0:03:35" in squeezed, "its seed 0 is still the shipped row"
    assert "* measured here; the other lines were shipped." in squeezed
    assert text.endswith(f"Rows: {own / 'toy' / 'rows.jsonl'}, {mini / 'rows.jsonl'}")
    for folder in (own / "toy", mini):
        name = read(folder)[0].id
        assert str(folder / "rows.jsonl") in show_row(name, own), "a shipped row is shown beside a trial run too"
    assert str(own / "toy" / "rows.jsonl") in show_row("mini:retromae:0", own), "the name is the nearest row's"
    assert str(mini / "rows.jsonl") in show_row("mini:bert:0", own), "the user's folder has no row of this name"


def test_a_track_without_rows_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "track.toml").write_text("")
    assert show_track("fresh", tmp_path) == (
        "Track fresh has no rows yet. `retrobench run --objective NAME --track fresh` appends one."
    )
    assert json.loads(show_track("fresh", tmp_path, "json")) == {"tables": []}
    with pytest.raises(RetrobenchError, match="Unknown track 'other'"):
        show_track("other", tmp_path)


def test_the_readme_is_current_until_a_row_is_added(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mini / "track.toml").write_text('title = "The mini track"\ndescription = "SQuAD as passages."\n')
    (mini.parent / "notes").mkdir()
    assert find_stale(mini.parent) == [str(mini / "README.md")]
    assert main([str(mini.parent)]) == 0
    assert find_stale(mini) == find_stale(mini.parent) == []
    assert main(["--check", str(mini.parent)]) == 0
    append(mini, row("bert", 3), {DATASET: {"MRR@10": BERT}})
    capsys.readouterr()
    assert main(["--check", str(mini.parent)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"{mini / 'README.md'} is not current")
    assert f"python -m retrobench.leaderboard {mini}\n" in message
    assert write_readme(mini) == mini / "README.md"
    names = {path.name for path in mini.iterdir()} - {"plots"}
    assert names == {"README.md", "per_query", "queries", "rows.jsonl", "rows.jsonl.lock", "track.toml"}


def test_the_readme_has_the_provenance_and_the_command_of_each_row(mini: Path) -> None:
    (mini / "track.toml").write_text('title = "The mini track"\ndescription = "SQuAD as passages."\n')
    bm25 = row("bm25", None, [mean(BERT)], hardware={"cpu": "another"}, cost={"search": {"seconds": 7.0}})
    append(mini, bm25, BERT_VALUES)
    text = render_readme(mini)
    assert text.startswith("# The mini track\n\n<!-- ")
    assert "\n\nSQuAD as passages.\n\n" in text
    assert "| tokenise | pretrain | finetune |  search |" in text
    rows = [cells(line) for line in text.splitlines() if "json.gz" in line]
    assert rows[0][:15] == [
        read(mini)[0].id[:8],
        "bert",
        "cls",
        "0",
        "in-batch 0.2000, mined 0.2500",
        "mined",
        "0.2500",
        "-",
        "retrobench 0.1.0",
        "0.1.0",
        "f00dfeedf0",
        "-",
        "-",
        "1",
        "1",
    ]
    seed, machine = rows[9][3], rows[9][13]
    assert (seed, machine) == ("-", "2")
    assert "- Machine 2: cpu another\n" in text
    assert "\nretrobench run --objective mlm --seed 0\n" in text
    for appended in read(mini):
        assert (mini / appended.per_query).is_file()
        assert f"({appended.per_query})" in text


def test_the_readme_of_a_track_without_rows(tmp_path: Path) -> None:
    (tmp_path / "track.toml").write_text("")
    assert "No rows yet." in render_readme(tmp_path)
    (tmp_path / "track.toml").write_text("title = ")
    with pytest.raises(RetrobenchError, match=r"track\.toml is not TOML: "):
        render_readme(tmp_path)


def test_checking_a_folder_without_tracks_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(tmp_path)]) == 2
    assert "No track in " in capsys.readouterr().err
    assert main(["--check"]) == 2


def test_nothing_heavy_is_imported() -> None:
    heavy = {"torch", "transformers", "scipy", "ranx", "numba", "faiss", "rich"}
    code = f"import sys, retrobench.leaderboard.pages; print({heavy} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "set()\n"


def test_a_view_shows_the_chosen_measures_and_columns(tmp_path: Path) -> None:
    for seed in range(3):
        for entrant, ndcg in (("bert", 0.5), ("mlm", 0.6)):
            values = {"MRR@10": BERT, "nDCG@10": dict.fromkeys(BERT, ndcg)}
            append(tmp_path / "toy", row(entrant, seed, [mean(BERT), ndcg]), {DATASET: values})
    text = show_track("toy", tmp_path, "text", View(measures=["nDCG@10"], columns=["entrant", "seeds"]))
    squeezed = squeezed_lines(text)
    assert squeezed[2] == "entrant seeds nDCG@10 beats"
    assert squeezed[3] == "a mlm 3 0.6000 ± 0.0000 b"
    assert squeezed[4] == "b bert 3 0.5000 ± 0.0000"
    with pytest.raises(RetrobenchError, match=r"Unknown measure 'MAP'.* Known: MRR@10, nDCG@10"):
        show_track("toy", tmp_path, "text", View(measures=["MAP"]))
    with pytest.raises(RetrobenchError, match=r"Unknown column 'speed'.* Known: .*entrant, .*seeds"):
        show_track("toy", tmp_path, "text", View(columns=["speed"]))


def test_a_latex_table_has_the_chosen_label_and_caption(mini: Path) -> None:
    text = show_track("toy", mini.parent, "latex", View(label="tab:mini", caption="Five objectives & BM25"))
    assert "\\caption{Five objectives \\& BM25}\n\\label{tab:mini}\n" in text
    with pytest.raises(RetrobenchError, match="--label and --caption are LaTeX's, and the format is md"):
        show_track("toy", mini.parent, "md", View(label="tab:mini"))
    with pytest.raises(RetrobenchError, match="--columns is for tables, and csv holds every column"):
        show_track("toy", mini.parent, "csv", View(columns=["seeds"]))
