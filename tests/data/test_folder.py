"""A folder in BEIR's layout: its content, its description, and the message for each mistake in it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from folders import write_lines

from retrobench.data.datasets import Document, Query, load
from retrobench.data.rules import Rule
from retrobench.errors import RetrobenchError

refused = functools.partial(pytest.raises, RetrobenchError)

DOCUMENTS = [
    {"_id": "d1", "title": "Whales", "text": "A whale is no fish."},
    {"_id": "d2", "title": "", "text": ""},
    {"_id": "d3", "text": "Ships sail."},
]
QUERIES = [
    {"_id": "q1", "text": "what is a whale"},
    {"_id": "q2", "text": ""},
    {"_id": "q3", "text": "ships"},
]
HEADER = "query-id\tcorpus-id\tscore"
QRELS = [HEADER, "q2\td3\t0", "q1\td1\t2", "q1\td2\t1", "q1\tgone\t1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(tmp_path / "corpus.jsonl", DOCUMENTS)
    write_lines(tmp_path / "queries.jsonl", QUERIES)
    write_lines(tmp_path / "qrels/test.tsv", QRELS)
    write_lines(tmp_path / "qrels/dev.tsv", [HEADER, "q3\td1\t1"])
    return tmp_path


def test_a_folder_gives_its_documents_queries_and_judgements(folder: Path) -> None:
    dataset = load(str(folder))
    assert list(dataset.documents()) == [
        Document("d1", "Whales", "A whale is no fish."),
        Document("d2", "", ""),
        Document("d3", "", "Ships sail."),
    ]
    assert list(dataset.queries()) == [Query("q2", ""), Query("q1", "what is a whale")]
    assert dataset.qrels() == {"q2": {"d3": 0}, "q1": {"d1": 2, "d2": 1, "gone": 1}}
    assert dataset.document_count() == 3
    assert dataset.query_count() == 2
    dev = load(f"{folder}:dev")
    assert list(dev.queries()) == [Query("q3", "ships")]


def test_reading_a_folder_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = load(str(folder))
    assert len(list(dataset.documents())) == 3
    assert len(list(dataset.queries())) == 2
    assert capfd.readouterr() == ("", "")


CHANGES: dict[str, tuple[str, list[Any], bool]] = {
    "another text": ("corpus.jsonl", [{**DOCUMENTS[0], "text": "A whale is a fish."}, *DOCUMENTS[1:]], True),
    "a letter moved from text to title": (
        "corpus.jsonl",
        [{"_id": "d1", "title": "WhalesA", "text": " whale is no fish."}, *DOCUMENTS[1:]],
        True,
    ),
    "another order": ("corpus.jsonl", [DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[2]], True),
    "another query": ("queries.jsonl", [{"_id": "q1", "text": "what is a fish"}, *QUERIES[1:]], False),
    "another grade": ("qrels/test.tsv", [*QRELS[:2], "q1\td1\t1", *QRELS[3:]], False),
}


@pytest.mark.parametrize("case", CHANGES)
def test_the_fingerprint_changes_with_any_content(folder: Path, case: str) -> None:
    file, lines, changes_corpus = CHANGES[case]
    dataset = load(str(folder))
    fingerprint = dataset.fingerprint()
    corpus_fingerprint = dataset.corpus_fingerprint()
    assert dataset.fingerprint() == fingerprint
    write_lines(folder / file, lines)
    assert dataset.fingerprint() != fingerprint
    assert (dataset.corpus_fingerprint() != corpus_fingerprint) is changes_corpus


# The lines of a file, and the message about them.
FAULTY_RECORDS: list[tuple[list[Any], str]] = [
    ([{"_id": "q1"}, '{"_id": "q2"'], r"line 2: not a JSON object \(Expecting"),
    ([{"_id": "q1"}, ""], "line 2: not a JSON object"),
    (["[]"], "line 1: .* string '_id'"),
    ([{"_id": 1}], "line 1: .* string '_id'"),
    ([{"_id": "q1", "text": ["a"]}], r"line 1: 'text' .* \['a'\]"),
    ([{"_id": "q1"}, {"_id": "q2"}, {"_id": "q1"}], "line 3: id 'q1' .* line 1"),
    ([], "is empty"),
]


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(("lines", "message"), FAULTY_RECORDS)
def test_faulty_records_name_file_and_line(folder: Path, name: str, lines: list[Any], message: str) -> None:
    write_lines(folder / name, lines)
    dataset = load(str(folder))
    with refused(match=rf"{name}.*{message}"):
        if name == "corpus.jsonl":
            list(dataset.documents())
        else:
            list(dataset.queries())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (QRELS[1:], r"test\.tsv has no header; .* query-id, corpus-id, score"),
        ([*QRELS, "q1 d1 1"], r"test\.tsv, line 6: .* not \['q1 d1 1'\]"),
        ([*QRELS, "q1\td3\t0.5"], r"test\.tsv, line 6: "),
    ],
)
def test_faulty_judgements_name_file_and_line(folder: Path, lines: list[str], message: str) -> None:
    write_lines(folder / "qrels/test.tsv", lines)
    dataset = load(str(folder))
    with refused(match=message):
        dataset.qrels()
    with refused(match=message):
        list(dataset.queries())


def test_a_contradiction_is_named_and_a_repetition_is_none(folder: Path) -> None:
    write_lines(folder / "qrels/test.tsv", [*QRELS, "q1\td1\t2"])
    assert load(str(folder)).qrels()["q1"]["d1"] == 2
    write_lines(folder / "qrels/test.tsv", [*QRELS, "q1\td1\t0"])
    with refused(match="'q1' and document 'd1' twice, as 2 and as 0"):
        load(str(folder)).qrels()


def test_a_judged_query_without_a_text_is_named(folder: Path) -> None:
    write_lines(folder / "qrels/test.tsv", [*QRELS, "q9\td1\t1"])
    with refused(match=r"test\.tsv judges query 'q9', .*queries\.jsonl lacks"):
        list(load(str(folder)).queries())


def test_a_missing_file_is_named_when_it_is_read(folder: Path) -> None:
    with refused(match=r"train\.tsv\. .*: dev, test; .*:SPLIT"):
        load(f"{folder}:train").qrels()
    (folder / "queries.jsonl").unlink()
    with refused(match=r"has no queries\.jsonl"):
        list(load(str(folder)).queries())
    documents = load(f"{folder}:absent").documents()
    assert [document.id for document in documents] == ["d1", "d2", "d3"]
    (folder / "corpus.jsonl").unlink()
    with refused(match=r"has no corpus\.jsonl; .* corpus\.jsonl, queries"):
        load(str(folder))


def test_a_folder_without_a_description_has_the_default_rule(folder: Path) -> None:
    dataset = load(str(folder))
    assert dataset.title == ""
    assert dataset.rule == Rule()


DESCRIPTION = """
title = "Whales"
relevance_level = 2
measures = ["MRR@10"]
[splits.dev]
drop_self = true
relevance_level = 3
"""


def test_a_description_gives_title_and_rule_by_split(folder: Path) -> None:
    (folder / "dataset.toml").write_text(DESCRIPTION)
    test = load(str(folder))
    assert test.title == "Whales"
    assert test.rule == Rule(relevance_level=2, measures=("MRR@10",), note="Whales")
    dev = load(f"{folder}:dev")
    assert dev.title == "Whales"
    assert dev.rule == Rule(drop_self=True, relevance_level=3, measures=("MRR@10",), note="Whales")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("drop_sefl = true", r"'drop_sefl'\. Did you mean 'drop_self'\? .*dataset\.toml"),
        ('[splits.test]\nrelevance_level = "2"', "^relevance_level .* whole number, got '2'"),
        ("relevance_level = 0", r"^relevance_level is 0, .*dataset\.toml"),
        ("drop_self = ", r"dataset\.toml is not TOML: .*Correct it there\."),
        ("title = 1", r"dataset\.toml: title and language must be texts"),
        ("splits = 1", r"dataset\.toml splits is 1; expected a table \[splits\]"),
    ],
)
def test_a_faulty_description_is_one_line(folder: Path, line: str, message: str) -> None:
    write_lines(folder / "dataset.toml", [line])
    with refused(match=message):
        _ = load(str(folder)).rule


def test_negatives_of_a_split_and_of_none(folder: Path) -> None:
    write_lines(folder / "negatives/dev.tsv", ["query-id\tcorpus-id", "q3\td2", "q3\td3"])
    dev = load(f"{folder}:dev")
    assert list(dev.negatives()) == [("q3", "d2"), ("q3", "d3")]
    with refused(match=r"test\.tsv\. .*: dev\."):
        load(str(folder)).negatives()
    with refused(match=r"'retrobench/squad/train' has no docpairs\."):
        list(load("retrobench/squad/train").negatives())
