"""Questions that training and test share: in hand-made folders, and in the splits of SQuAD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from folders import write_folder, write_lines

from retrobench.data import Overlap, doctor, find_overlap, open_collections, read_questions, register
from retrobench.data.overlap import normalise

DOCUMENTS = [
    ("d1", "Whales", "A whale is no fish."),
    ("d2", "", "Ships sail."),
    ("d3", "", "Nothing."),
    ("d4", "", "Coffee houses sell coffee."),
]
TRAIN_QUERIES = [("q1", "what is a whale"), ("q2", "ships"), ("q3", "where is a caf\u00e9")]
TRAIN_JUDGEMENTS = [("q1", "d1", 1), ("q2", "d2", 1), ("q3", "d4", 1)]

Row = tuple[object, ...]


def overlap(train: str, test: str) -> Overlap:
    collections = open_collections([train, test])
    return find_overlap(read_questions(collections[train]), read_questions(collections[test]))


def in_one_corpus(folder: Path, queries: Sequence[Row], judgements: Sequence[Row]) -> Overlap:
    """Return the overlap of a folder's training with a test of the same folder, with queries of its own."""
    write_folder(folder, DOCUMENTS, TRAIN_QUERIES, TRAIN_JUDGEMENTS)
    (folder / "qrels/test.tsv").rename(folder / "qrels/train.tsv")
    write_split(folder, "test", queries, judgements)
    return overlap(f"{folder}:train", f"{folder}:test")


def write_split(folder: Path, split: str, queries: Sequence[Row], judgements: Sequence[Row]) -> None:
    write_lines(folder / f"queries.{split}.jsonl", [{"_id": key, "text": text} for key, text in queries])
    lines = ["query-id\tcorpus-id\tscore"]
    lines += ["\t".join(map(str, judgement)) for judgement in judgements]
    write_lines(folder / f"qrels/{split}.tsv", lines)


def between_corpora(
    folder: Path, documents: Sequence[Row], queries: Sequence[Row], judgements: Sequence[Row]
) -> Overlap:
    """Return the overlap of a folder's training with another folder's test."""
    train = write_folder(folder / "train", DOCUMENTS, TRAIN_QUERIES, TRAIN_JUDGEMENTS)
    test = write_folder(folder / "test", documents, queries, judgements)
    return overlap(train, test)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is  a\twhale?", "what is a whale"),
        ("\u201cShips!\u201d", "ships"),
        ("cafe\u0301", "caf\u00e9"),
        ("STRASSE", "strasse"),
        ("stra\u00dfe", "strasse"),
        ("\uff33hips\uff1f", "ships"),
        ("who is Mr. Smith?", "who is mr. smith"),
        ("c++", "c++"),
        (" ?! ", ""),
    ],
)
def test_texts_are_normalised(text: str, expected: str) -> None:
    assert normalise(text) == expected


SAME_QUESTIONS = {
    "id and text": (("q1", "what is a whale"), ("q1", "d3", 1)),
    "id and document": (("q1", "define whales"), ("q1", "d1", 1)),
    "text and document": (("t1", "what is a whale"), ("t1", "d1", 1)),
    "case and punctuation": (("t1", "What is a Whale?"), ("t1", "d1", 1)),
    "another form of an accent": (("t1", "where is a cafe\u0301"), ("t1", "d4", 1)),
}


@pytest.mark.parametrize("agreement", SAME_QUESTIONS)
def test_questions_with_two_agreements_are_shared(agreement: str, tmp_path: Path) -> None:
    query, judgement = SAME_QUESTIONS[agreement]
    shared = in_one_corpus(tmp_path, [query, ("t2", "nothing")], [judgement, ("t2", "d3", 1)])
    assert (shared.questions, shared.total) == (1, 2)
    assert shared.examples == (query[0],)
    assert shared.texts == 0


OTHER_QUESTIONS = {
    "equal numbers": (("q1", "where do ships go"), ("q1", "d2", 1), 0, 1),
    "an equal text about another document": (("t1", "ships"), ("t1", "d3", 1), 1, 0),
    "another question about a document": (("t1", "do whales swim"), ("t1", "d1", 1), 0, 1),
    "an equal text whose document is not relevant": (("t1", "ships"), ("t1", "d2", 0), 1, 0),
}


@pytest.mark.parametrize("agreement", OTHER_QUESTIONS)
def test_questions_with_one_agreement_are_counted(agreement: str, tmp_path: Path) -> None:
    query, judgement, texts, documents = OTHER_QUESTIONS[agreement]
    shared = in_one_corpus(tmp_path, [query], [judgement])
    assert (shared.questions, shared.examples) == (0, ())
    assert (shared.texts, shared.documents) == (texts, documents)


def test_no_question_is_learnt_without_a_relevant_document(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_folder(folder, DOCUMENTS, TRAIN_QUERIES, [("q1", "d1", 0), ("q2", "d2", 1)])
    (folder / "qrels/test.tsv").rename(folder / "qrels/train.tsv")
    write_split(folder, "test", [("q1", "what is a whale"), ("q2", "ships")], [("q1", "d1", 1), ("q2", "d2", 1)])
    assert overlap(f"{folder}:train", f"{folder}:test").examples == ("q2",)


def test_empty_texts_are_not_equal(tmp_path: Path) -> None:
    train = write_folder(tmp_path / "train", DOCUMENTS, [("q1", "?")], [("q1", "d1", 1)])
    test = write_folder(tmp_path / "test", DOCUMENTS, [("t1", "!")], [("t1", "d1", 1)])
    shared = overlap(train, test)
    assert (shared.questions, shared.texts, shared.documents) == (0, 0, 1)


def test_a_copy_of_the_folder_has_the_same_corpus(tmp_path: Path) -> None:
    shared = between_corpora(
        tmp_path, DOCUMENTS, [("q1", "define whales"), ("t2", "Ships")], [("q1", "d1", 1), ("t2", "d2", 1)]
    )
    assert shared.questions == 2


OTHER_CORPORA: dict[str, tuple[Row, Row, int, int]] = {
    "the same question with its id": (("w", "", "Whales."), ("q1", "What is a whale?"), 1, 0),
    "a copy of the document": (("w", "Fish", "a whale is  no fish"), ("t1", "What is a whale?"), 1, 0),
    "a passage of the document": (("w", "", "whale is no"), ("t1", "What is a whale?"), 1, 0),
    "a longer document": (("w", "", "Look: a whale is no fish. It sings."), ("t1", "What is a whale?"), 1, 0),
    "another document": (("w", "", "A whale is a mammal."), ("t1", "What is a whale?"), 0, 1),
    "an empty document": (("w", "Whales", ""), ("t1", "What is a whale?"), 0, 1),
    "equal numbers of questions and documents": (("d1", "", "A whale is no fish."), ("q1", "where"), 0, 0),
}


@pytest.mark.parametrize("case", OTHER_CORPORA)
def test_two_corpora_are_compared_by_text(case: str, tmp_path: Path) -> None:
    document, query, questions, texts = OTHER_CORPORA[case]
    shared = between_corpora(tmp_path, [document], [query], [(query[0], document[0], 1)])
    assert (shared.questions, shared.texts, shared.documents) == (questions, texts, 0)


def test_a_shared_question_is_not_counted_by_its_text_too(tmp_path: Path) -> None:
    queries = [("q1", "ships"), ("q2", "ships")]
    train = write_folder(tmp_path / "train", DOCUMENTS, queries, [("q1", "d2", 1), ("q2", "d3", 1)])
    test = write_folder(tmp_path / "test", DOCUMENTS, [("t1", "ships")], [("t1", "d2", 1)])
    shared = overlap(train, test)
    assert (shared.questions, shared.texts) == (1, 0)


def test_only_three_examples_are_kept(tmp_path: Path) -> None:
    queries: Sequence[Row] = [(f"q{number}", f"question {number}") for number in range(5)]
    judgements: Sequence[Row] = [(f"q{number}", "d1", 1) for number in range(5)]
    train = write_folder(tmp_path, DOCUMENTS, queries, judgements)
    shared = overlap(train, train)
    assert (shared.questions, shared.total) == (5, 5)
    assert shared.examples == ("q0", "q1", "q2")


def test_the_splits_of_squad_share_no_question() -> None:
    register()
    splits = open_collections(f"retrobench/squad/{split}" for split in ("fit", "val", "test"))
    fit, val, test = (read_questions(collection) for collection in splits.values())
    assert counts(find_overlap(fit, test)) == (0, 8, 0)
    assert counts(find_overlap(fit, val)) == (0, 4, 0)
    assert counts(find_overlap(val, test)) == (0, 0, 0)
    assert find_overlap(fit, fit).questions == 78264


def counts(shared: Overlap) -> tuple[int, int, int]:
    return shared.questions, shared.texts, shared.documents


def test_a_check_against_a_training_finds_shared_questions(tmp_path: Path) -> None:
    in_one_corpus(tmp_path, [("t1", "Ships?"), ("t2", "what is a whale")], [("t1", "d2", 1), ("t2", "d3", 0)])
    train = f"{tmp_path}:train"
    assert doctor.check(str(tmp_path)).exit_code == 0
    report = doctor.check(str(tmp_path), train)
    assert (report.faults, report.exit_code) == (1, 1)
    findings = {finding.kind: finding for finding in report.checked[0].findings}
    assert report.checked[0].findings[0].kind == "shared-questions"
    assert findings["shared-questions"].examples == ("t1",)
    assert findings["shared-question-texts"].count == 1
    assert findings["shared-relevant-documents"].count == 1
    assert f"FAULT   1 of 2 questions are questions of {train}: t1" in report.text()


def test_a_check_against_a_clean_training_says_so(tmp_path: Path) -> None:
    in_one_corpus(tmp_path, [("t1", "nothing")], [("t1", "d3", 1)])
    report = doctor.check(str(tmp_path), f"{tmp_path}:train")
    assert report.exit_code == 0
    assert f"none of 1 questions is a question of {tmp_path}:train" in report.text()


def test_an_unreadable_test_is_one_fault_without_a_comparison(tmp_path: Path) -> None:
    train = write_folder(tmp_path / "train")
    test = write_folder(tmp_path / "test", judgements=[("q1", "d1", "many")])
    report = doctor.check(test, train)
    kinds = [finding.kind for finding in report.checked[0].findings if finding.level == "fault"]
    assert kinds == ["unreadable"]
