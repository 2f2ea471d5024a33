"""Faults put into a small collection by hand, each found and counted; the list, and what is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_datasets
import pytest

from retrobench.data import build as builders
from retrobench.data import catalogue, doctor, fetch_dataset, list_datasets, rules
from retrobench.data import datasets as data
from retrobench.errors import RetrobenchError

DOCS = [("d1", "Whales", "A whale is no fish."), ("d2", "", "Ships sail."), ("d3", "", "Nothing.")]
QUERIES = [("q1", "what is a whale"), ("q2", "ships")]
JUDGEMENTS = [("q1", "d1", 2), ("q2", "d2", 1), ("q2", "d3", 0)]


def write(folder: Path, docs: Any = DOCS, queries: Any = QUERIES, judgements: Any = JUDGEMENTS) -> str:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [json.dumps(dict(zip(("_id", "title", "text"), row, strict=True))) for row in docs]
    asked = [json.dumps(dict(zip(("_id", "text"), row, strict=True))) for row in queries]
    judged = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judgements)]
    for name, rows in (("corpus.jsonl", corpus), ("queries.jsonl", asked), ("qrels/test.tsv", judged)):
        (folder / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return str(folder)


def found(report: doctor.CheckReport) -> dict[str, tuple[str, int]]:
    return {each.kind: (each.level, each.count) for each in report.checked[0].findings}


def test_a_sound_collection_is_counted_hashed_and_found_sound(tmp_path: Path) -> None:
    name = write(tmp_path)
    report = doctor.check(name)
    (checked,) = report.checked
    dataset = data.load(name)
    assert (checked.findings, report.faults, report.exit_code) == ((), 0, 0)
    assert checked.documents == doctor.DatasetPart(3, None, dataset.corpus_fingerprint())
    assert checked.queries == doctor.DatasetPart(2, None, dataset.queries_fingerprint())
    assert checked.judgements == doctor.DatasetPart(3, None, dataset.qrels_fingerprint())
    assert (checked.titled, checked.grades) == (1, {0: 1, 1: 1, 2: 1})
    text = report.text()
    assert f"sha256 {dataset.corpus_fingerprint()[:16]}, 1 with a title" in text
    assert "1 of grade 0, 1 of grade 1, 1 of grade 2" in text
    assert text.endswith("\n\nNo fault.")
    told = json.loads(report.json())
    assert told["dataset"] == name
    assert told["checked"][0]["judgements"] == {"count": 3, "published": None, "sha256": dataset.qrels_fingerprint()}


REMARKS: dict[str, tuple[dict[str, Any], dict[str, tuple[str, int]]]] = {
    "the same text twice": (
        {"docs": [*DOCS, ("d4", "", "Nothing."), ("d5", "Nothing.", "")]},
        {"repeated-texts": ("remark", 1)},
    ),
    "empty documents, which are no repetition": (
        {"docs": [*DOCS, ("d4", " ", ""), ("d5", "", ""), ("d6", "", "")]},
        {"empty-documents": ("remark", 3)},
    ),
    "an empty query": ({"queries": [("q1", " "), ("q2", "ships")]}, {"empty-queries": ("remark", 1)}),
    "a query nobody judged": ({"queries": [*QUERIES, ("q3", "x")]}, {"unjudged-queries": ("remark", 1)}),
    "no relevant document, and a negative grade": (
        {"judgements": [("q1", "d1", 1), ("q2", "d2", 0), ("q2", "d3", -1)]},
        {"negative-grades": ("remark", 1), "queries-without-relevant": ("remark", 1)},
    ),
    "said twice alike": ({"judgements": [*JUDGEMENTS, ("q1", "d1", 2)]}, {"repeated-judgements": ("remark", 1)}),
    "ids that coincide": (
        {"docs": [*DOCS, ("q1", "", "another text")]},
        {"shared-ids": ("remark", 1)},
    ),
    "queries that are documents": (
        {"docs": [*DOCS, ("q1", "", "what is a whale"), ("q2", "", "other")]},
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
            "docs": [*DOCS, ("d 4", "", "x"), ("", "", "y")],
            "queries": [*QUERIES, ("q\u20033", "z")],
            "judgements": [*JUDGEMENTS, ("q\u20033", "d1", 1)],
        },
        {"unfit-document-ids": ("fault", 2), "unfit-query-ids": ("fault", 1)},
    ),
    "an id used twice": ({"docs": [*DOCS, ("d1", "", "again")]}, {"unreadable": ("fault", 1)}),
    "a judged query without a text": ({"queries": [("q1", "what is a whale")]}, {"unreadable": ("fault", 1)}),
    "a grade that is no number": ({"judgements": [*JUDGEMENTS, ("q1", "d1", "high")]}, {"unreadable": ("fault", 1)}),
}


@pytest.mark.parametrize("case", REMARKS)
def test_what_is_to_be_known_is_no_fault(case: str, tmp_path: Path) -> None:
    parts, expected = REMARKS[case]
    report = doctor.check(write(tmp_path, **parts))
    assert found(report) == expected
    assert report.exit_code == 0


@pytest.mark.parametrize("case", FAULTS)
def test_what_makes_scores_wrong_is_a_fault(case: str, tmp_path: Path) -> None:
    parts, expected = FAULTS[case]
    report = doctor.check(write(tmp_path, **parts))
    assert found(report) == expected
    assert (report.faults, report.exit_code) == (len(expected), 1)
    assert "FAULT" in report.text()


def test_a_faulty_part_has_no_hash_and_the_others_still_do(tmp_path: Path) -> None:
    name = write(tmp_path, docs=[*DOCS, ("d1", "", "again")])
    checked = doctor.check(name).checked[0]
    assert checked.documents == doctor.DatasetPart(4, None, None)
    assert checked.queries and checked.queries.sha256 == data.load(name).queries_fingerprint()
    assert "corpus.jsonl, line 4: id 'd1' was used on line 1." in checked.findings[0].text
    assert "sha256 none" in checked.text()


def test_rules_of_the_folder_turn_warnings_and_faults_into_remarks(tmp_path: Path) -> None:
    docs = [*DOCS, ("q1", "", "what is a whale")]
    name = write(tmp_path, docs=docs, judgements=[*JUDGEMENTS, ("q1", "gone", 1)])
    (tmp_path / "dataset.toml").write_text('title = "Mine"\ndrop_self = true\ndangling = 1\nrelevance_level = 2\n')
    report = doctor.check(name)
    assert found(report) == {
        "dangling-documents": ("remark", 1),
        "shared-ids": ("remark", 1),
        "queries-below-level": ("remark", 1),
    }
    text = report.text()
    assert text.startswith(f"{name}: Mine\n")
    assert "1 judgements name documents that the corpus lacks, as published: gone" in text
    assert "a query's own document is dropped; relevant from grade 2; nDCG@10, Recall@100; Mine" in text
    (tmp_path / "dataset.toml").write_text("dangling = 2\n")
    assert "1 judgements name documents that the corpus lacks, 2 as published" in doctor.check(name).text()
    assert doctor.check(name).exit_code == 1


def test_documents_alone_can_be_checked(tmp_path: Path) -> None:
    (tmp_path / "corpus.tsv").write_text("1\tone\n2\ttwo\n")
    (checked,) = doctor.check(str(tmp_path)).checked
    assert (checked.documents.count, checked.queries, checked.judgements) == (2, None, None)


def test_counts_are_held_against_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "published", lambda name: {"docs": 20959, "queries": 9335, "qrels": 9336})
    report = doctor.check("retrobench/squad/val")  # which is sound
    assert found(report) == {"documents-count": ("fault", 20958), "judgements-count": ("fault", 9335)}
    assert "20,958 documents where 20,959 are published" in report.text()
    assert "of 9,335 published" in report.text()


def test_a_group_is_checked_member_by_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [write(tmp_path / "a"), write(tmp_path / "b", judgements=[*JUDGEMENTS, ("q1", "gone", 1)])]
    monkeypatch.setattr(rules, "expand", lambda name: tuple(members) if name == "pair" else (name,))
    report = doctor.check("pair")
    assert [each.dataset for each in report.checked] == members
    assert (report.faults, report.exit_code) == (1, 1)
    assert json.loads(report.json())["dataset"] == "pair"


def test_a_bar_for_many_documents_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = write(tmp_path)
    before = doctor.check(name).json()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(doctor, "LARGE", 3)
    assert doctor.check(name).json() == before
    assert "documents" in capfd.readouterr().err


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], dict[str, dict[str, Any]]]:
    monkeypatch.setenv("RETROBENCH_DATA", str(tmp_path))
    return lambda: {row["id"]: row for row in json.loads(list_datasets(True))}


def test_list_holds_groups_catalogue_shipped_local_and_what_can_be_made(
    listing: Callable[[], dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    write(tmp_path / "mine")
    (tmp_path / "odd").mkdir()
    for name in ("corpus.tsv", "corpus.jsonl"):
        (tmp_path / "odd" / name).write_text("")
    rows = listing()
    assert rows["beir"]["members"] == list(rules.GROUPS["beir"])
    assert rows["beir/fiqa/test"]["documents"] == 57638
    assert (rows["beir/arguana"]["queries"], rows["beir/arguana"]["rule"]["drop_self"]) == (1406, True)
    assert rows["msmarco-passage/dev/small"]["queries"] == 6980
    assert rows["msmarco-passage/train/triples-v2"]["bytes"] > 2.8e9  # the pairs too
    shipped = rows["retrobench/squad/test"]
    assert (shipped["documents"], shipped["queries"], shipped["at_hand"]) == (20958, 10570, True)
    assert (rows["mine:test"]["kind"], rows["mine:test"]["documents"], rows["mine:test"]["queries"]) == ("local", 3, 2)
    assert "only one can count" in rows["odd"]["fault"]
    assert rows["msmarco-titled"]["kind"] == "to build"
    assert all(rows[name]["at_hand"] is False for name in builders.BUILDERS)


def test_list_as_text_has_a_line_for_each(listing: Callable[[], dict[str, dict[str, Any]]], tmp_path: Path) -> None:
    write(tmp_path / "wikibook")
    lines = list_datasets(False).splitlines()
    names = [line.split()[0] for line in lines[1:-2]]
    assert names == list(listing())
    assert "wikibook:test" in names and "wikibook" not in names
    assert lines[-1].endswith(f"collections made here lie in {tmp_path}.")


def test_builders_are_called_with_the_folder_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETROBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(builders, "BUILDERS", {"small": lambda place: f"{place.name}: {write(place)}"})
    assert fetch_dataset("small") == f"small: {tmp_path / 'small'}"
    assert doctor.check("small:test").exit_code == 0


def test_what_is_there_needs_no_fetching(tmp_path: Path) -> None:
    assert fetch_dataset("retrobench/squad/test").endswith("ships with retrobench, nothing to fetch")
    assert fetch_dataset(write(tmp_path)).endswith(f"the folder {tmp_path}, nothing to fetch")
    with pytest.raises(RetrobenchError, match="Unknown dataset 'no-such-thing'"):
        fetch_dataset("no-such-thing")


def test_files_behind_an_id_are_named_with_their_place_and_size() -> None:
    (file,) = catalogue.files("beir/scifact/test")
    assert file.url.endswith("/BEIR/datasets/scifact.zip")
    assert file.path == catalogue.home() / "beir/scifact/source.zip"
    assert file.bytes == 2816079
    shared = {file.url for name in rules.expand("beir/cqadupstack") for file in catalogue.files(name)}
    assert len(shared) == 1
    small = {file.path.name for file in catalogue.files("msmarco-passage/dev/small")}
    assert small == {"collectionandqueries.tar.gz"}
    assert catalogue.files("retrobench/squad/test") == ()
    assert ir_datasets.util.home_path() == catalogue.home()
