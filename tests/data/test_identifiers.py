"""Ids and grades that no TREC file can carry are refused where a collection is read, and counted by `data check`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from retrobench.data import doctor, open_collections
from retrobench.data.identifiers import fits_trec
from retrobench.errors import RetrobenchError

HEADER = "query-id\tcorpus-id\tscore\n"
MARK = "\ufeff"


def write(folder: Path, document: str = "d1", query: str = "q1", grade: int = 1, mark: str = "") -> Path:
    """Write a collection of one document, one query and one judgement, each file after a `mark`."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text(mark + json.dumps({"_id": document, "text": "words"}) + "\n")
    (folder / "queries.jsonl").write_text(mark + json.dumps({"_id": query, "text": "words"}) + "\n")
    judgement = f"{query}\t{document}\t{grade}\n"
    (folder / "qrels" / "test.tsv").write_text(mark + HEADER + judgement, errors="surrogatepass")
    return folder


def read(folder: Path) -> str:
    return open_collections([str(folder)])[str(folder)].hash


@pytest.mark.parametrize(
    "identifier", ["", "d 1", "d\t1", "d\n1", "d\x005", "d\x1f", "d\ud800", "d\u00a01", f"{MARK}d"]
)
def test_an_id_that_no_trec_file_can_carry_is_refused(identifier: str, tmp_path: Path) -> None:
    assert not fits_trec(identifier)
    folder = write(tmp_path)
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": identifier, "text": "words"}) + "\n")
    with pytest.raises(RetrobenchError, match=r"has document ids that no TREC file can carry \(empty, or with white"):
        read(folder)
    (finding,) = [finding for finding in doctor.check(str(folder)).checked[0].findings if "unfit" in finding.kind]
    assert (finding.level, finding.kind, finding.count) == ("fault", "unfit-document-ids", 1)
    assert "document ids that no TREC file can carry (empty, or with white" in finding.text


@pytest.mark.parametrize("identifier", ["d", '"d"', "d'1", "é", "d#1", "<dbpedia:Animalia_(book)>", "\U0001f600"])
def test_any_other_id_is_an_id(identifier: str, tmp_path: Path) -> None:
    assert fits_trec(identifier)
    folder = write(tmp_path, identifier, identifier)
    collection = open_collections([str(folder)])[str(folder)]
    assert collection.hash
    assert collection.dataset.qrels() == {identifier: {identifier: 1}}


@pytest.mark.parametrize("grade", [1001, -1001, 2**40])
def test_a_grade_that_is_too_large_is_refused(grade: int, tmp_path: Path) -> None:
    folder = write(tmp_path, grade=grade)
    with pytest.raises(RetrobenchError, match=rf"has grades beyond 1,000 .*: {grade} for query 'q1'"):
        read(folder)
    kinds = {finding.kind for finding in doctor.check(str(folder)).checked[0].findings}
    assert "too-large-grades" in kinds


@pytest.mark.parametrize("grade", [1000, -1000, -100])
def test_the_largest_grades(grade: int, tmp_path: Path) -> None:
    assert read(write(tmp_path, grade=grade))


def test_a_byte_order_mark_enters_no_id(tmp_path: Path) -> None:
    assert read(write(tmp_path / "marked", mark=MARK)) == read(write(tmp_path / "plain"))


def trec_form(folder: Path, mark: str) -> None:
    (folder / "qrels" / "test.tsv").write_text(f"{mark}q1 0 d1 1\n")


def tab_form(folder: Path, mark: str) -> None:
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").unlink()
    (folder / "corpus.tsv").write_text(f"{mark}d1\twords\n")
    (folder / "queries.tsv").write_text(f"{mark}q1\twords\n")


@pytest.mark.parametrize("form", [trec_form, tab_form])
def test_a_byte_order_mark_enters_no_id_of_other_forms(form: Callable[[Path, str], None], tmp_path: Path) -> None:
    folder = write(tmp_path)
    form(folder, "")
    expected = read(folder)
    form(write(folder), MARK)
    if form is tab_form:
        assert not (folder / "corpus.jsonl").exists()
    assert read(folder) == expected
