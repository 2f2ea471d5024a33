"""A limit keeps documents and questions by their ids, whatever the order of the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from folders import write_folder

from retrobench.data import Collection, open_collections
from retrobench.data.datasets import load
from retrobench.data.embedded.collection import SquadDocs
from retrobench.errors import RetrobenchError

SPLITS = ("train", "val", "test")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    tiny.write_collection(tmp_path / "data")
    return tmp_path / "data"


def limited(data: Path, limit: int) -> list[Collection]:
    """Return the three splits, each of whose questions choose documents."""
    names = [f"{data}:{split}" for split in SPLITS]
    return list(open_collections(names, limit, names).values())


def document_ids(collection: Collection) -> list[str]:
    return [document.id for document in collection.dataset.documents()]


def query_ids(collection: Collection) -> set[str]:
    return {query.id for query in collection.dataset.queries()}


def test_each_kept_question_has_a_kept_relevant_document(data: Path) -> None:
    for collection in limited(data, 12):
        kept = set(document_ids(collection))
        assert len(kept) == collection.corpus.count == collection.dataset.document_count() == 12
        qrels = collection.dataset.qrels()
        assert 0 < len(qrels) <= 12
        assert qrels.keys() == query_ids(collection)
        whole = load(collection.id).qrels()
        for query_id, grades in qrels.items():
            assert grades
            assert grades == {key: grade for key, grade in whole[query_id].items() if key in kept}


def test_datasets_of_one_corpus_share_the_kept_documents(data: Path) -> None:
    train, val, test = limited(data, 12)
    assert train.corpus is val.corpus is test.corpus
    counts = [len(query_ids(collection)) for collection in (train, val, test)]
    assert min(counts) >= 4, "a dataset brings a document in turn with the others"
    texts = {document.id: document for document in load(f"{data}:test").documents()}
    assert [texts[document.id] for document in test.dataset.documents()] == list(test.dataset.documents())


def test_the_kept_part_does_not_depend_on_the_order_of_the_judgements(data: Path) -> None:
    before = limited(data, 12)
    for split in SPLITS:
        file = data / "qrels" / f"{split}.tsv"
        head, *lines = file.read_text().splitlines()
        file.write_text("\n".join([head, *reversed(lines)]) + "\n")
    after = limited(data, 12)
    assert [document_ids(collection) for collection in before] == [document_ids(collection) for collection in after]
    assert [query_ids(collection) for collection in before] == [query_ids(collection) for collection in after]


def test_two_limits_are_two_contents(data: Path) -> None:
    hashes = set()
    for limit in (0, 12, 24):
        for collection in limited(data, limit):
            hashes |= {collection.corpus.hash, collection.queries_hash, collection.qrels_hash}
    assert len(hashes) == 3 * (1 + 3 + 3)


def test_a_limit_above_the_data_changes_nothing(data: Path) -> None:
    for collection, whole in zip(limited(data, 60), limited(data, 0), strict=True):
        assert collection.dataset == whole.dataset
        assert collection.hash == whole.hash
        assert collection.dataset.limit_facts() == {}


def test_a_small_corpus_stays_whole_under_more_questions(tmp_path: Path) -> None:
    queries = [(f"q{number}", "whales") for number in range(9)]
    judgements = [(f"q{number}", "d1", 1) for number in range(9)]
    name = write_folder(tmp_path, queries=queries, judgements=judgements)
    part = open_collections([name], 4, [name])[name]
    assert part.corpus.hash == open_collections([name])[name].corpus.hash
    assert document_ids(part) == ["d1", "d2", "d3"]
    assert len(query_ids(part)) == 4


def test_a_corpus_without_questions_keeps_its_first_documents(data: Path) -> None:
    (collection,) = open_collections([f"{data}:train"], 5).values()
    assert document_ids(collection) == ["d0", "d1", "d2", "d3", "d4"]
    assert query_ids(collection) == set()


def many_answers(folder: Path, documents: int) -> str:
    """Write question `many` with all documents but the last, and a question for each of three documents."""
    rows = [(f"d{number}", "", "words") for number in range(documents)]
    judgements = [("many", f"d{number}", 1) for number in range(documents - 1)]
    judgements += [(f"q{number}", f"d{number}", 1) for number in range(3)]
    queries = [("many", "words"), *((f"q{number}", "words") for number in range(3))]
    return write_folder(folder, rows, queries, judgements)


def test_a_question_with_many_answers_leaves_room_for_others(tmp_path: Path) -> None:
    name = many_answers(tmp_path, 30)
    part = open_collections([name], 6, [name])[name]
    assert query_ids(part) == {"many", "q0", "q1", "q2"}
    kept = document_ids(part)
    assert {"d0", "d1", "d2"} <= set(kept)
    assert "d29" not in kept, "judged documents come before others"


def test_a_question_about_a_missing_document_is_left_out(tmp_path: Path) -> None:
    rows = [(f"d{number}", "", "words") for number in range(9)]
    queries = [("lost", "words"), ("found", "words")]
    name = write_folder(tmp_path, rows, queries, [("lost", "gone", 1), ("found", "d8", 1)])
    part = open_collections([name], 3, [name])[name]
    assert query_ids(part) == {"found"}
    assert document_ids(part) == ["d8", "d0", "d1"]


def test_a_limit_that_keeps_no_question_is_refused(tmp_path: Path) -> None:
    name = write_folder(tmp_path, judgements=[("q1", "d1", 1)])
    (tmp_path / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td2\t1\n")
    names = [f"{name}:train", f"{name}:test"]
    assert len(open_collections(names, 2, names)) == 2
    with pytest.raises(RetrobenchError, match=r"^A limit of 1 keeps no question of '.*:train' .* larger limit"):
        open_collections(names, 1, names)


def test_only_the_beginning_of_a_catalogued_corpus_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    docs_iter = SquadDocs.docs_iter

    def counted(docs: SquadDocs) -> Iterator[object]:
        nonlocal read
        for document in docs_iter(docs):
            read += 1
            yield document

    monkeypatch.setattr(SquadDocs, "docs_iter", counted)
    (collection,) = open_collections(["retrobench/squad/test"], 20, ["retrobench/squad/test"]).values()
    assert collection.corpus.count == 20
    assert read == 21
    monkeypatch.undo()
    assert {*document_ids(collection)} == {*load("retrobench/squad/test").find_documents(document_ids(collection))}
    beginning = [document.id for document in load("retrobench/squad").documents()][:21]
    assert not {*document_ids(collection)} <= {*beginning}, "judged documents are looked up by id"


def test_documents_are_found_by_id(data: Path) -> None:
    for name, present in ((f"{data}:test", "d7"), ("retrobench/squad/test", "p18891")):
        documents = load(name).find_documents([present, "gone"])
        assert list(documents) == [present]
        assert documents[present] in list(load(name).documents())
        assert load(name).find_documents([]) == {}
