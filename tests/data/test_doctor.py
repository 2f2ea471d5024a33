"""Faults put into a small collection by hand: each is found and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from folders import DOCUMENTS, JUDGEMENTS, QUERIES, write_folder

from retrobench.data import catalogue, doctor, groups, load


def levels_and_counts(report: doctor.CheckReport) -> dict[str, tuple[str, int]]:
    """Return kind -> (level, count) of the findings about the first dataset."""
    findings = report.checked[0].findings
    return {finding.kind: (finding.level, finding.count) for finding in findings}


def test_a_sound_collection_is_counted_and_hashed(tmp_path: Path) -> None:
    dataset_id = write_folder(tmp_path)
    dataset = load(dataset_id)
    report = doctor.check(dataset_id)
    (checked,) = report.checked
    assert report.faults == 0
    assert report.exit_code == 0
    assert checked.findings == ()
    assert checked.documents == doctor.DatasetPart(3, None, dataset.corpus_fingerprint())
    assert checked.queries == doctor.DatasetPart(2, None, dataset.queries_fingerprint())
    assert checked.judgements == doctor.DatasetPart(3, None, dataset.qrels_fingerprint())
    assert checked.titled == 1
    assert checked.grades == {0: 1, 1: 1, 2: 1}


def test_a_report_as_text_and_as_json(tmp_path: Path) -> None:
    dataset_id = write_folder(tmp_path)
    dataset = load(dataset_id)
    report = doctor.check(dataset_id)
    text = report.text()
    assert f"sha256 {dataset.corpus_fingerprint()[:16]}, 1 with a title" in text
    assert "1 of grade 0, 1 of grade 1, 1 of grade 2" in text
    assert text.endswith("\n\nNo fault.")
    fields = json.loads(report.json())
    assert fields["dataset"] == dataset_id
    judgements = fields["checked"][0]["judgements"]
    assert judgements == {"count": 3, "published": None, "sha256": dataset.qrels_fingerprint()}


REMARKS: dict[str, tuple[dict[str, Any], dict[str, tuple[str, int]]]] = {
    "the same text twice": (
        {"documents": [*DOCUMENTS, ("d4", "", "Nothing."), ("d5", "Nothing.", "")]},
        {"repeated-texts": ("remark", 1)},
    ),
    "empty documents, which are no repetition": (
        {"documents": [*DOCUMENTS, ("d4", " ", ""), ("d5", "", ""), ("d6", "", "")]},
        {"empty-documents": ("remark", 3)},
    ),
    "an empty query": (
        {"queries": [("q1", " "), ("q2", "ships")]},
        {"empty-queries": ("remark", 1)},
    ),
    "a query nobody judged": (
        {"queries": [*QUERIES, ("q3", "x")]},
        {"unjudged-queries": ("remark", 1)},
    ),
    "no relevant document, and a negative grade": (
        {"judgements": [("q1", "d1", 1), ("q2", "d2", 0), ("q2", "d3", -1)]},
        {"negative-grades": ("remark", 1), "queries-without-relevant": ("remark", 1)},
    ),
    "a judgement repeated": (
        {"judgements": [*JUDGEMENTS, ("q1", "d1", 2)]},
        {"repeated-judgements": ("remark", 1)},
    ),
    "ids that coincide": (
        {"documents": [*DOCUMENTS, ("q1", "", "another text")]},
        {"shared-ids": ("remark", 1)},
    ),
    "queries that are documents": (
        {"documents": [*DOCUMENTS, ("q1", "", "what is a whale"), ("q2", "", "other")]},
        {"shared-ids": ("warning", 2)},
    ),
}
FAULTS: dict[str, tuple[dict[str, Any], dict[str, tuple[str, int]]]] = {
    "judged but absent": (
        {"judgements": [*JUDGEMENTS, ("q1", "gone", 1), ("q2", "gone", 0), ("q2", "lost", 1)]},
        {"dangling-documents": ("fault", 3)},
    ),
    "contradiction": (
        {"judgements": [*JUDGEMENTS, ("q1", "d1", 0), ("q1", "d1", 1)]},
        {"contradictions": ("fault", 2)},
    ),
    "ids that no run can carry": (
        {
            "documents": [*DOCUMENTS, ("d 4", "", "x"), ("", "", "y")],
            "queries": [*QUERIES, ("q\u20033", "z")],
            "judgements": [*JUDGEMENTS, ("q\u20033", "d1", 1)],
        },
        {"unfit-document-ids": ("fault", 2), "unfit-query-ids": ("fault", 1)},
    ),
    "an id used twice": (
        {"documents": [*DOCUMENTS, ("d1", "", "again")]},
        {"unreadable": ("fault", 1)},
    ),
    "a judged query without a text": (
        {"queries": [("q1", "what is a whale")]},
        {"unreadable": ("fault", 1)},
    ),
    "a grade that is no number": (
        {"judgements": [*JUDGEMENTS, ("q1", "d1", "high")]},
        {"unreadable": ("fault", 1)},
    ),
}


@pytest.mark.parametrize("case", REMARKS)
def test_remarks_and_warnings_are_no_faults(case: str, tmp_path: Path) -> None:
    rows, expected = REMARKS[case]
    report = doctor.check(write_folder(tmp_path, **rows))
    assert levels_and_counts(report) == expected
    assert report.exit_code == 0


@pytest.mark.parametrize("case", FAULTS)
def test_faults_set_the_exit_code(case: str, tmp_path: Path) -> None:
    rows, expected = FAULTS[case]
    report = doctor.check(write_folder(tmp_path, **rows))
    assert levels_and_counts(report) == expected
    assert report.faults == len(expected)
    assert report.exit_code == 1
    assert "FAULT" in report.text()


def test_faulty_documents_have_no_hash_and_queries_still_have_one(tmp_path: Path) -> None:
    dataset_id = write_folder(tmp_path, documents=[*DOCUMENTS, ("d1", "", "again")])
    (checked,) = doctor.check(dataset_id).checked
    assert checked.documents == doctor.DatasetPart(4, None, None)
    assert checked.queries
    assert checked.queries.sha256 == load(dataset_id).queries_fingerprint()
    assert "corpus.jsonl, line 4" in checked.findings[0].text
    assert "sha256 none" in checked.text()


def test_rules_of_the_folder_turn_warnings_and_faults_into_remarks(tmp_path: Path) -> None:
    documents = [*DOCUMENTS, ("q1", "", "what is a whale")]
    dataset_id = write_folder(tmp_path, documents, judgements=[*JUDGEMENTS, ("q1", "gone", 1)])
    description = tmp_path / "dataset.toml"
    description.write_text('title = "Mine"\ndrop_self = true\ndangling = 1\nrelevance_level = 2\n')
    report = doctor.check(dataset_id)
    assert levels_and_counts(report) == {
        "dangling-documents": ("remark", 1),
        "shared-ids": ("remark", 1),
        "queries-below-level": ("remark", 1),
    }
    text = report.text()
    assert text.startswith(f"{dataset_id}: Mine\n")
    assert "as published: gone" in text
    assert "relevant from grade 2; nDCG@10, Recall@100; Mine" in text


def test_another_number_of_dangling_judgements_than_published_is_a_fault(tmp_path: Path) -> None:
    dataset_id = write_folder(tmp_path, judgements=[*JUDGEMENTS, ("q1", "gone", 1)])
    (tmp_path / "dataset.toml").write_text("dangling = 2\n")
    report = doctor.check(dataset_id)
    assert levels_and_counts(report) == {"dangling-documents": ("fault", 1)}
    assert "2 as published" in report.text()


def test_documents_alone_can_be_checked(tmp_path: Path) -> None:
    (tmp_path / "corpus.tsv").write_text("1\tone\n2\ttwo\n")
    (checked,) = doctor.check(str(tmp_path)).checked
    assert checked.documents.count == 2
    assert checked.queries is None
    assert checked.judgements is None


def test_counts_are_compared_with_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    published = {"docs": 20959, "queries": 9335, "qrels": 9336}
    monkeypatch.setattr(catalogue, "published", lambda dataset_id: published)
    report = doctor.check("retrobench/squad/val")  # sound, apart from these counts
    assert levels_and_counts(report) == {"documents-count": ("fault", 20958), "judgements-count": ("fault", 9335)}
    assert "20,959" in report.text()
    assert "of 9,335 published" in report.text()


def test_a_group_is_checked_member_by_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = write_folder(tmp_path / "sound")
    faulty = write_folder(tmp_path / "faulty", judgements=[*JUDGEMENTS, ("q1", "gone", 1)])

    def expand(name: str) -> tuple[str, ...]:
        if name == "pair":
            return sound, faulty
        return (name,)

    monkeypatch.setattr(groups, "expand", expand)
    report = doctor.check("pair")
    first, second = report.checked
    assert first.dataset == sound
    assert second.dataset == faulty
    assert report.faults == 1
    assert report.exit_code == 1
    assert json.loads(report.json())["dataset"] == "pair"


def test_a_bar_for_many_documents_changes_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset_id = write_folder(tmp_path)
    report = doctor.check(dataset_id).json()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(doctor, "LARGE", 3)
    assert doctor.check(dataset_id).json() == report
    assert "documents" in capfd.readouterr().err
