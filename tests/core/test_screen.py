"""Tables and sentences in a terminal of a stated width."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from retrobench.core import Column, Table, fold_text, set_width

COLUMNS = [
    Column(""),
    Column("entrant"),
    Column("read by"),
    Column("MRR@10", "right", "measure"),
    Column("beats", "right", "marks"),
    Column("nDCG@10", "right", "measure"),
    Column("time", "right", "number"),
]
TABLE = Table(COLUMNS, [["a", "retromae", "cls", "0.2102", "bc", "0.2503", "0:05:13"]])


@pytest.fixture
def terminal() -> Iterator[Callable[[int | None], None]]:
    yield set_width
    set_width(None)


def header(table: Table) -> list[str]:
    return table.text().splitlines()[0].split()


def test_a_pipe_has_no_edge() -> None:
    assert header(TABLE) == ["entrant", "read", "by", "MRR@10", "beats", "nDCG@10", "time"]
    assert fold_text("A sentence. " * 40 + ".") == "A sentence. " * 40 + "."


@pytest.mark.parametrize(
    ("columns", "kept", "omitted"),
    [
        (60, "entrant read by MRR@10 beats nDCG@10 time", ""),
        (50, "entrant read by MRR@10 beats nDCG@10", "time"),
        (40, "entrant read by MRR@10 beats", "nDCG@10, time"),
        (10, "entrant read by MRR@10 beats", "nDCG@10, time"),
    ],
)
def test_columns_are_left_out_from_the_right(
    columns: int, kept: str, omitted: str, terminal: Callable[[int | None], None]
) -> None:
    terminal(columns)
    lines = TABLE.text().splitlines()
    assert lines[0].split() == kept.split()
    if omitted:
        assert lines[-1] == f"Too narrow for {omitted}: --wide prints every column."
    if columns >= 40:
        assert max(map(len, lines[:2])) <= columns


def test_marks_leave_with_their_column(terminal: Callable[[int | None], None]) -> None:
    columns = [Column("entrant"), Column("MRR", "right", "measure"), Column("nDCG", "right", "measure"), COLUMNS[4]]
    terminal(16)
    assert header(Table(columns, [["retromae", "0.2", "0.3", "ab"]])) == ["entrant", "MRR"]


def test_the_last_texts_are_folded_at_words(terminal: Callable[[int | None], None]) -> None:
    table = Table([Column("name"), Column("reason")], [["simlm", "it needs a generator of the same vocabulary"]])
    terminal(30)
    assert table.text().splitlines() == [
        "name   reason",
        "simlm  it needs a generator of",
        "       the same vocabulary",
    ]


def test_sentences_are_folded_and_tables_commands_and_data_are_not(terminal: Callable[[int | None], None]) -> None:
    terminal(20)
    sentence = "Means are over five seeds of each line."
    assert fold_text(sentence) == "Means are over five\nseeds of each line."
    for line in (
        "a  retromae  0.2102 ± 0.0026.",
        "    retrobench run --objective dupmae.",
        '{"a": "b c d e f g h i j."}',
    ):
        assert fold_text(line) == line
