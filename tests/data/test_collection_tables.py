"""Tab-separated text, JSON Lines of other makers, gzipped files: what is read, and what each fault is told."""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from collections.abc import Callable
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
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def test_tab_separated_collection_with_trec_judgements(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", lines("7\tone", '8\ta "quoted \r text', "9\t"))
    write(tmp_path / "queries.tsv", lines("q1\tfirst", "q2\tsecond", "q3\tthird"))
    write(tmp_path / "qrels/dev.tsv", lines("q2 0 9 1", "q1\t0\t7\t-1"))
    dataset = load(f"{tmp_path}:dev")
    assert list(dataset.documents()) == [
        Document("7", "", "one"),
        Document("8", "", 'a "quoted \r text'),
        Document("9", "", ""),
    ]
    assert list(dataset.queries()) == [Query("q2", "second"), Query("q1", "first")]
    assert dataset.qrels() == {"q2": {"9": 1}, "q1": {"7": -1}}
    assert dataset.document_count() == 3


def test_every_file_may_be_gzipped_and_have_a_title(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    parts = {
        "corpus.tsv": lines("1\tA title\tsome text", "2\t\tmore"),
        "queries.test.tsv": lines("q\twhat"),
        "qrels.test.tsv": lines("query-id\tcorpus-id\tscore", "q\t2\t1"),
        "negatives/test.tsv": lines("query-id\tcorpus-id", "q\t1", "q\t2"),
    }
    for name, content in parts.items():
        write(plain / name, content)
        write(packed / f"{name}.gz", content)
    one, other = load(str(plain)), load(str(packed))
    assert list(one.documents()) == [Document("1", "A title", "some text"), Document("2", "", "more")]
    assert one.fingerprint() == other.fingerprint()
    assert list(one.negatives()) == list(other.negatives()) == [("q", "1"), ("q", "2")]
    assert (one.document_count(), other.document_count()) == (2, 2)
    assert folder.splits(plain) == folder.splits(packed) == ("test",)


def test_queries_of_a_split_come_before_those_of_all(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", lines("1\tone"))
    write(tmp_path / "queries.tsv", lines("q\tof all"))
    write(tmp_path / "queries.dev.tsv", lines("q\tof dev"))
    for split in ("dev", "test"):
        write(tmp_path / f"qrels/{split}.tsv", lines("q 0 1 1"))
    assert [next(load(f"{tmp_path}:{split}").queries()).text for split in ("dev", "test")] == ["of dev", "of all"]


@pytest.mark.parametrize(
    "record",
    [
        {"id": "d", "contents": "text", "title": "title"},
        {"docid": "d", "text": "text", "title": "title", "url": 3},
        {"_id": "d", "id": 7, "title": "title", "text": "text", "contents": "not this"},
        {"query_id": "d", "query": "text", "title": "title"},
    ],
)
def test_json_lines_of_other_makers(tmp_path: Path, record: dict[str, object]) -> None:
    file = write(tmp_path / "corpus.jsonl", lines(json.dumps(record)))
    assert list(tables.records(file)) == [("d", "title", "text")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lines("1\ta", "2\tb\tc"), r"line 2: an id and a text with tabs between them were expected, not 3 columns"),
        (lines("1\ta\tb", "2\tb"), r"line 2: an id, a title and a text with tabs .* not 2 columns: \['2', 'b'\]\."),
        (lines("no tab"), r"line 1: an id and a text .* not 1 columns"),
        (lines("1\ta", "\tb"), r"line 2: an id and a text"),
        (lines("1\ta", "2\tb", "1\tc"), r"line 3: id '1' was used on line 1\."),
        (b"1\ta\n2\t\xff\n", r"line 2: byte 3 is not UTF-8\."),
        (b"", r"is empty; a document or query per line is expected\."),
    ],
)
def test_faulty_tables_name_file_and_line(tmp_path: Path, content: bytes, told: str) -> None:
    with refused(match=rf"corpus\.tsv,? {told}"):
        list(tables.records(write(tmp_path / "corpus.tsv", content)))


def test_a_gzip_file_cut_short_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*(f"{n}\t{zlib.crc32(bytes([n % 256, n // 256]))}" for n in range(9999))))
    file = tmp_path / "corpus.tsv.gz"
    for content in (whole[:-20], whole[: len(whole) // 2], b"not gzip"):
        file.write_bytes(content)
        with refused(match=r"corpus\.tsv\.gz, line \d+: the gzip file is damaged"):
            list(tables.records(file))


@pytest.mark.parametrize(
    ("read", "content", "told"),
    [
        (tables.judgements, lines("q 0 d 1", "q 0 d"), r"line 2: a query id, an iteration, .* not \['q', '0', 'd'\]\."),
        (tables.judgements, lines("q 0 d 1", "q 0 d 0.5"), r"line 2: a query id, an iteration"),
        (tables.judgements, lines("h\th\th", "q\td\t1\r2"), r"line 2: "),
        (tables.pairs, lines("q\td"), r"has no header; let its first line be query-id, corpus-id\."),
        (tables.pairs, lines("query-id\tcorpus-id", "q\t"), r"line 2: a query id and a document id .* \['q', ''\]\."),
    ],
)
def test_faulty_rows_name_file_and_line(
    tmp_path: Path, read: Callable[[Path], object], content: bytes, told: str
) -> None:
    with refused(match=rf"test\.tsv,? {told}"):
        list(read(write(tmp_path / "test.tsv", content)))  # type: ignore[call-overload]


def test_documents_are_given_before_the_file_is_read_through(tmp_path: Path) -> None:
    file = write(tmp_path / "corpus.tsv", lines("1\ta", "2\tb", "broken"))
    stream = tables.records(file)
    assert [next(stream).id, next(stream).id] == ["1", "2"]
    with refused(match="line 3"):
        next(stream)


def test_ids_with_one_hash_are_not_taken_for_a_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "hash", lambda text: 5, raising=False)
    rows = ["1\ta", "2\tb", "3\tc"]
    file = write(tmp_path / "corpus.tsv", lines(*rows))
    assert len(list(tables.records(file))) == 3
    write(file, lines(*rows, "2\td"))
    with refused(match=r"line 4: id '2' was used on line 2\."):
        list(tables.records(file))


def test_two_files_for_one_purpose_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", lines("1\ta"))
    write(tmp_path / "corpus.jsonl.gz", lines('{"_id": "1"}'))
    with refused(match=r"has corpus\.jsonl\.gz and corpus\.tsv, of which only one can count; move the other away\."):
        load(str(tmp_path))


def test_a_split_without_negatives_is_told_which_have_some(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", lines("1\ta"))
    write(tmp_path / "negatives/train.tsv.gz", lines("query-id\tcorpus-id"))
    with refused(match=r"No file .*test\.tsv\. Splits with negatives there: train\."):
        load(str(tmp_path)).negatives()
