"""Tab-separated text, JSON Lines with other field names and gzipped files, and the message for each fault."""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from pathlib import Path

import pytest

from retrobench.data import folder, tables
from retrobench.data.datasets import Document, Query, load
from retrobench.errors import RetrobenchError

refused = functools.partial(pytest.raises, RetrobenchError)


def lines(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".gz":
        content = gzip.compress(content)
    file.write_bytes(content)
    return file


def test_tab_separated_collection_with_trec_judgements(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", lines("7\tone", '8\ta "quoted text', "9\t"))
    write(tmp_path / "queries.tsv", lines("q1\tfirst", "q2\tsecond", "q3\tthird"))
    write(tmp_path / "qrels/dev.tsv", lines("q2 0 9 1", "q1\t0\t7\t-1"))
    dataset = load(f"{tmp_path}:dev")
    assert list(dataset.documents()) == [
        Document("7", "", "one"),
        Document("8", "", 'a "quoted text'),
        Document("9", "", ""),
    ]
    assert list(dataset.queries()) == [Query("q2", "second"), Query("q1", "first")]
    assert dataset.qrels() == {"q2": {"9": 1}, "q1": {"7": -1}}
    assert dataset.document_count() == 3


def test_every_file_may_be_gzipped_and_have_a_title(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    packed = tmp_path / "packed"
    contents = {
        "corpus.tsv": lines("1\tA title\tsome text", "2\t\tmore"),
        "queries.test.tsv": lines("q\twhat"),
        "qrels.test.tsv": lines("query-id\tcorpus-id\tscore", "q\t2\t1"),
        "negatives/test.tsv": lines("query-id\tcorpus-id", "q\t1", "q\t2"),
    }
    for name, content in contents.items():
        write(plain / name, content)
        write(packed / f"{name}.gz", content)
    for path in (plain, packed):
        dataset = load(str(path))
        assert list(dataset.documents()) == [Document("1", "A title", "some text"), Document("2", "", "more")]
        assert list(dataset.negatives()) == [("q", "1"), ("q", "2")]
        assert dataset.document_count() == 2
        assert folder.splits(path) == ("test",)
    assert load(str(plain)).fingerprint() == load(str(packed)).fingerprint()


def test_queries_of_a_split_come_before_those_of_all(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", lines("1\tone"))
    write(tmp_path / "queries.tsv", lines("q\tof all"))
    write(tmp_path / "queries.dev.tsv", lines("q\tof dev"))
    write(tmp_path / "qrels/dev.tsv", lines("q 0 1 1"))
    write(tmp_path / "qrels/test.tsv", lines("q 0 1 1"))
    dev = load(f"{tmp_path}:dev")
    test = load(f"{tmp_path}:test")
    assert list(dev.queries()) == [Query("q", "of dev")]
    assert list(test.queries()) == [Query("q", "of all")]


@pytest.mark.parametrize(
    "record",
    [
        {"id": "d", "contents": "text", "title": "title"},
        {"docid": "d", "text": "text", "title": "title", "url": 3},
        {"_id": "d", "id": 7, "title": "title", "text": "text", "contents": "not this"},
        {"query_id": "d", "query": "text", "title": "title"},
    ],
)
def test_json_lines_with_other_field_names(tmp_path: Path, record: dict[str, object]) -> None:
    file = write(tmp_path / "corpus.jsonl", lines(json.dumps(record)))
    assert list(tables.records(file)) == [("d", "title", "text")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines("1\ta", "2\tb\tc"), "line 2: an id and a text .* not 3 columns"),
        (lines("1\ta\tb", "2\tb"), r"line 2: an id, a title and a text .* not 2 columns: \['2', 'b'\]"),
        (lines("no tab"), "line 1: an id and a text .* not 1 columns"),
        (lines("1\ta", "\tb"), "line 2: an id and a text"),
        (lines("1\ta", "2\tb", "1\tc"), "line 3: id '1' .* line 1"),
        (b"1\ta\n2\t\xff\n", "line 2: byte 3 is not UTF-8"),
        (b"", "is empty"),
    ],
)
def test_faulty_tables_name_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = write(tmp_path / "corpus.tsv", content)
    with refused(match=rf"corpus\.tsv,? {message}"):
        list(tables.records(file))


def test_a_gzip_file_cut_short_is_named(tmp_path: Path) -> None:
    rows = []
    for number in range(9999):
        checksum = zlib.crc32(number.to_bytes(2))
        rows.append(f"{number}\t{checksum}")
    compressed = gzip.compress(lines(*rows))
    file = tmp_path / "corpus.tsv.gz"
    half = len(compressed) // 2
    for content in (compressed[:-20], compressed[:half], b"not gzip"):
        file.write_bytes(content)
        with refused(match=r"corpus\.tsv\.gz, line \d+: the gzip file is damaged"):
            list(tables.records(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines("q 0 d 1", "q 0 d"), r"line 2: a query id, an iteration, .* not \['q', '0', 'd'\]"),
        (lines("q 0 d 1", "q 0 d 0.5"), "line 2: a query id, an iteration"),
        (lines("query-id\tcorpus-id\tscore", "q\td\t1\r2"), "line 2: a carriage return within a line"),
        (lines("h\th\th", "q\td\t1"), "has no header"),
    ],
)
def test_faulty_judgements_name_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = write(tmp_path / "test.tsv", content)
    with refused(match=rf"test\.tsv,? {message}"):
        list(tables.judgements(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines("q\td"), "has no header; .* query-id, corpus-id"),
        (lines("query-id\tcorpus-id", "q\t"), r"line 2: a query id and a document id .* \['q', ''\]"),
    ],
)
def test_faulty_pairs_name_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = write(tmp_path / "test.tsv", content)
    with refused(match=rf"test\.tsv,? {message}"):
        list(tables.pairs(file))


def test_documents_are_yielded_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    file = write(tmp_path / "corpus.tsv", lines("1\ta", "2\tb", "broken"))
    records = tables.records(file)
    assert next(records).id == "1"
    assert next(records).id == "2"
    with refused(match="line 3"):
        next(records)


def test_ids_with_equal_hashes_are_no_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "hash", lambda text: 5, raising=False)
    rows = ["1\ta", "2\tb", "3\tc"]
    file = write(tmp_path / "corpus.tsv", lines(*rows))
    assert len(list(tables.records(file))) == 3
    write(file, lines(*rows, "2\td"))
    with refused(match="line 4: id '2' .* line 2"):
        list(tables.records(file))


def test_two_files_for_one_purpose_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", lines("1\ta"))
    write(tmp_path / "corpus.jsonl.gz", lines('{"_id": "1"}'))
    with refused(match=r"corpus\.jsonl\.gz and corpus\.tsv"):
        load(str(tmp_path))


def test_a_split_without_negatives_names_the_splits_with_some(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", lines("1\ta"))
    write(tmp_path / "negatives/train.tsv.gz", lines("query-id\tcorpus-id"))
    with refused(match=r"test\.tsv\. .*: train\."):
        load(str(tmp_path)).negatives()
