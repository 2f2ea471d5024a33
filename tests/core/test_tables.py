"""One table in every format, with padding, escapes, marks and kinds, written by hand."""

from __future__ import annotations

import csv
import io

import pytest

from retrobench.core import Column, Markdown, Table, escape_latex
from retrobench.core.tables import Value

COLUMNS = (
    Column("entrant"),
    Column("MRR@10", "right", "measure"),
    Column("beats", "right", "marks"),
    Column("time", "right", "cost"),
)
RANKED = Table(COLUMNS, [("a|b", "0.5 ± -", "bc", "12:00"), ("c_d", None, "", "9:00")])
EMPTY = Table(COLUMNS[:2], [])


def test_text_has_two_spaces_between_columns_and_none_at_the_end() -> None:
    assert RANKED.text().splitlines() == [
        "entrant   MRR@10  beats   time",
        "a|b      0.5 ± -     bc  12:00",
        "c_d                       9:00",
    ]
    table = Table([Column("left"), Column("right")], [("long cell", "x"), ("x", "")])
    assert table.text().splitlines() == [
        "left       right",
        "long cell  x",
        "x",
    ]


def test_columns_without_names_have_no_header_in_text() -> None:
    listing = Table([Column(""), Column("", "right")], [("queries", 15), ("", ""), ("missing", 1)])
    assert listing.text() == "queries  15\n\nmissing   1"
    half_named = Table([Column(""), Column("run of")], [("a", "b")])
    assert half_named.text() == "   run of\na  b"


def test_markdown_escapes_bars_and_writes_marks_as_superscripts() -> None:
    assert RANKED.markdown().splitlines() == [
        "| entrant |               MRR@10 |  time |",
        "| ------- | -------------------: | ----: |",
        r"| a\|b    | 0.5 ± -<sup>bc</sup> | 12:00 |",
        "| c_d     |                      |  9:00 |",
    ]


def test_latex_escapes_and_writes_marks_as_superscripts() -> None:
    assert RANKED.latex().splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"entrant & MRR@10 & time \\",
        r"\midrule",
        r"a|b & 0.5 $\pm$ -$^{\mathrm{bc}}$ & 12:00 \\",
        r"c\_d &  & 9:00 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("50 % of $1 & #2", r"50 \% of \$1 \& \#2"),
        ("{a_b}", r"\{a\_b\}"),
        ("~\\^", r"\textasciitilde{}\textbackslash{}\textasciicircum{}"),
        ("p < 1 > 0 ± é", r"p $<$ 1 $>$ 0 $\pm$ é"),
    ],
)
def test_latex_prints_special_letters_as_they_are(text: str, source: str) -> None:
    assert escape_latex(text) == source


def test_csv_quotes_and_leaves_none_empty() -> None:
    rows: list[tuple[Value, ...]] = [('say "no", twice', 1 / 3), ("two\nlines", None)]
    table = Table([Column("name, unit"), Column("value", "right")], rows)
    text = table.csv()
    assert text == '"name, unit",value\n"say ""no"", twice",0.3333333333333333\n"two\nlines",'
    _, first, second = csv.reader(io.StringIO(text))
    assert first == ['say "no", twice', "0.3333333333333333"]
    assert second == ["two\nlines", ""]


def test_records_are_the_rows_by_column() -> None:
    assert RANKED.records()[1] == {"entrant": "c_d", "MRR@10": None, "beats": "", "time": "9:00"}
    records: list[dict[str, Value]] = [{"a": 1, "b": None}, {"c": 0.5, "a": 2}]
    table = Table.from_records(records)
    assert [column.name for column in table.columns] == ["a", "b", "c"]
    assert table.records() == [{"a": 1, "b": None, "c": None}, {"a": 2, "b": None, "c": 0.5}]


def test_blocks_of_columns_are_chosen_by_kind() -> None:
    costs = RANKED.only("text", "cost")
    assert costs.text().splitlines() == ["entrant   time", "a|b      12:00", "c_d       9:00"]
    costless = RANKED.without("cost")
    assert [column.name for column in costless.columns] == ["entrant", "MRR@10", "beats"]
    assert "sup" not in RANKED.without("marks").markdown()


def test_a_table_without_rows_shows_its_header() -> None:
    assert EMPTY.text() == "entrant  MRR@10"
    assert EMPTY.markdown() == "| entrant | MRR@10 |\n| ------- | -----: |"
    assert EMPTY.csv() == "entrant,MRR@10"
    assert EMPTY.records() == []
    assert EMPTY.latex().count("\n") == 5
    assert Table.from_records([]).csv() == ""


def test_a_rule_of_markdown_has_three_dashes_at_least() -> None:
    table = Table([Column(""), Column("k", "right")], [("a", 1)])
    assert table.markdown().splitlines() == [
        "|     |   k |",
        "| --- | --: |",
        "| a   |   1 |",
    ]


def test_wide_letters_take_two_cells() -> None:
    table = Table([Column("name"), Column("n", "right")], [("検索", 1), ("abcd", 22)])
    assert table.text().splitlines() == ["name   n", "検索   1", "abcd  22"]


HOSTILE = "=1+\x1b[31m|\n<b>[x](javascript:y)\u202e"


def test_no_value_leaves_its_cell_in_any_format() -> None:
    table = Table([Column(HOSTILE), Column("n", "right")], [(HOSTILE, 1), ("[0.1, 0.2]", "@sum"), ("-", "-0.5")])
    for text in (table.text(), table.markdown(), table.latex(), table.csv()):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert len(table.text().splitlines()) == 4
    markdown = table.markdown().splitlines()
    assert len(markdown) == 5
    assert "\\u001b[31m\\| &lt;b>[x]\\(javascript:y)\\u202e" in markdown[2]
    assert table.latex().splitlines()[5].startswith("{}[0.1, 0.2] & @sum")
    header, *rows = csv.reader(io.StringIO(table.csv()))
    assert [header[0][:3], rows[0][0][:3], rows[0][1]] == ["'=1", "'=1", "1"]
    assert rows[1:] == [["[0.1, 0.2]", "'@sum"], ["-", "-0.5"]]


def test_markdown_source_is_not_escaped_again() -> None:
    table = Table([Column("link")], [(Markdown("[values](file.gz)"),)])
    assert table.markdown().splitlines()[2] == "| [values](file.gz) |"
