"""A file of claims is read strictly, and the nearest file of a track counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrobench.errors import RetrobenchError
from retrobench.leaderboard.claims import read_excerpts, read_tables

SMALL = """
title = "T"
[reasons]
plugin = "no such plugin"
none = "no number"
[dataset]
"*" = { documents = 3, titles = "space" }
"d:dev" = { label = "dev", queries = 2 }
[[table]]
id = "paper/table-1"
title = "Title"
paper = "Paper (2020)"
source = "arXiv:1, Table 1"
set = ["adapt.corpus=[]"]
round = "mined"
columns = ["d:dev MRR@10", "d:dev Recall@10"]
headers = ["", "MRR@100"]
rows = [
    { model = "A", entrant = "bert", values = [0.25, "none"] },
    { model = "B", reason = "plugin", round = "in-batch", values = [0.5, 0.75] },
]
[[table.corrections]]
model = "B"
column = "d:dev MRR@10"
printed = 0.05
source = "arXiv:2"
note = "a digit fell out"
"""


def written(folder: Path, text: str, track: str = "small") -> Path:
    """Write claims as those of a track, and return their file."""
    file = folder / track / "claims.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def test_a_file_is_read_with_its_reasons_and_corrections(tmp_path: Path) -> None:
    (excerpt,) = read_excerpts(written(tmp_path, SMALL))
    assert (excerpt.track, excerpt.set) == ("small", ("adapt.corpus=[]",))
    assert excerpt.columns[1].header == "MRR@100"
    measured, missing = excerpt.systems
    assert (measured.entrant, measured.round) == ("bert", "mined")
    assert measured.cells[0].published == 0.25
    assert measured.cells[1].reason == "no number"
    assert (missing.reason, missing.round) == ("no such plugin", "in-batch")
    assert missing.cells[0].printed == 0.05
    assert missing.cells[0].note == "a digit fell out (arXiv:2)"
    assert excerpt.datasets["d:dev"].needs == {"documents": 3, "queries": 2, "titles": "space"}


def test_excerpts_of_a_table_are_joined_and_the_nearest_file_of_a_track_counts(tmp_path: Path) -> None:
    written(tmp_path, SMALL)
    unmeasured = SMALL.replace('round = "mined"', 'reason = "nothing measures it"', 1)
    written(tmp_path, unmeasured, "other")
    tables = {table.id: table for table in read_tables(tmp_path)}
    table = tables["paper/table-1"]
    assert [excerpt.track for excerpt in table.excerpts] == ["small", ""]
    assert (table.cells, table.title) == (8, "Title")
    assert "retromae/table-2" in tables


# Text of `SMALL`, the text in its place, and the message.
FAULTS = [
    ("round =", "rounds =", r"Unknown setting 'rounds'\. Did you mean 'round'\? .*claims.toml paper/table-1"),
    ('title = "T"', 'titel = "T"', r"Unknown setting 'titel'\. Did you mean 'title'\? .*small/claims.toml"),
    ("label =", "lable =", r"Unknown setting 'lable'\. Did you mean 'label'\? .*dataset\.\"d:dev\"\]"),
    ("[0.25,", "[25.0,", r"paper/table-1, A: 25\.0 is no fraction\. Divide percentages by 100\."),
    ("[0.25,", "[", r"paper/table-1, A: 1 values for 2 columns\. "),
    ('["", "MRR@100"]', '[""]', r"1 headers for 2 columns\. "),
    ('"plugin", r', '"plugn", r', r"Unknown reason in .*, B 'plugn'\. Did you mean 'plugin'\?"),
    ('entrant = "bert", ', "", r"paper/table-1, A: neither an entrant .* nor a reason"),
    ('column = "d:dev MRR@10"', 'column = "d:dev MRR"', r"Unknown cell to correct .*'d:dev MRR of B'\. Did you mean"),
    ('source = "arXiv:1, Table 1"', 'source = ""', r"needs an id PAPER/TABLE, a title, a paper and a source\."),
    ('"paper/table-1"', '"table 1"', r"claims.toml table 1: needs an id PAPER/TABLE"),
    ('model = "B", r', 'model = "A", r', r"Unknown cell|a model or a column stands twice\."),
    ('source = "arXiv:2"', "", r"source is missing .*paper/table-1"),
    ('["d:dev MRR@10", ', '["MRR@10", ', r"column 'MRR@10' is not DATASET MEASURE\. Write both"),
    ("[[table]]", "[table", r"claims\.toml is not TOML: .*Correct it there\."),
]


@pytest.mark.parametrize(("correct", "faulty", "message"), FAULTS)
def test_a_fault_is_one_line_that_names_it(tmp_path: Path, correct: str, faulty: str, message: str) -> None:
    assert correct in SMALL
    file = written(tmp_path, SMALL.replace(correct, faulty, 1))
    with pytest.raises(RetrobenchError, match=message) as raised:
        read_excerpts(file)
    assert "\n" not in str(raised.value)
