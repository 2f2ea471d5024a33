"""Loading by id: the shipped collection, ir_datasets' own, and unknown ids."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
from folders import write_folder
from ir_datasets.formats import GenericDocPair

from retrobench.data import catalogue, embedded
from retrobench.data.datasets import Document, Query, load, local_root
from retrobench.data.embedded import SHIPPED, collection, register
from retrobench.errors import RetrobenchError

refused = functools.partial(pytest.raises, RetrobenchError)

SQUAD = "retrobench/squad"
QUERY_COUNTS = {"train": 87599, "fit": 78264, "val": 9335, "test": 10570}


# The shipped collection


@pytest.mark.parametrize("split", QUERY_COUNTS)
def test_a_squad_split_is_complete(split: str) -> None:
    dataset = load(f"{SQUAD}/{split}")
    document_ids = {document.id for document in dataset.documents()}
    query_ids = [query.id for query in dataset.queries()]
    qrels = dataset.qrels()
    assert len(document_ids) == 20958
    assert dataset.document_count() == 20958
    assert query_ids == list(qrels)
    assert len(qrels) == QUERY_COUNTS[split]
    assert dataset.query_count() == QUERY_COUNTS[split]
    for grades in qrels.values():
        assert grades.keys() <= document_ids
        assert set(grades.values()) == {1}


def articles(split: str) -> set[str]:
    """Return the titles of the articles that a split judges."""
    titles = {document.id: document.title for document in load(SQUAD).documents()}
    qrels = load(f"{SQUAD}/{split}").qrels()
    judged: set[str] = set()
    for grades in qrels.values():
        for document_id in grades:
            judged.add(titles[document_id])
    return judged


def test_squad_fit_and_val_share_no_article() -> None:
    fit = load(f"{SQUAD}/fit").qrels()
    val = load(f"{SQUAD}/val").qrels()
    assert fit | val == load(f"{SQUAD}/train").qrels()
    fit_articles = articles("fit")
    val_articles = articles("val")
    assert not fit_articles & val_articles
    assert len(fit_articles) == 397
    assert len(val_articles) == 45  # SQuAD has 442


def test_a_squad_question_checked_by_hand() -> None:
    dataset = load(f"{SQUAD}/test")
    assert next(dataset.queries()) == Query("dev00001", "When did the 1973 oil crisis begin?")
    assert dataset.qrels()["dev00001"] == {"p18891": 1}
    documents = {document.id: document for document in dataset.documents()}
    document = documents["p18891"]
    assert document.title == "1973 oil crisis"
    assert document.text.startswith("The 1973 oil crisis began in October 1973 when the members of")


def test_squad_in_ir_datasets_own_terms() -> None:
    register()  # a second call must not raise
    assert set(SHIPPED) <= set(ir_datasets.registry)
    assert ir_datasets.docs_parent_id(f"{SQUAD}/fit") == SQUAD
    dataset = ir_datasets.load(f"{SQUAD}/fit")
    assert dataset.docs_count() == 20958
    assert len(dataset.docs) == 20958
    assert dataset.queries_count() == 78264
    assert dataset.qrels_count() == 78264
    assert next(dataset.qrels_iter())[:3] == ("train00001", "p00000", 1)


def test_squad_documents_can_be_indexed_sliced_and_looked_up() -> None:
    dataset = ir_datasets.load(f"{SQUAD}/fit")
    documents = dataset.docs_iter()
    assert documents[0].doc_id == "p00000"
    assert documents[1:2][0].doc_id == "p00001"
    assert documents[-1].doc_id == "p20957"
    sliced = [document.doc_id for document in documents[10:16:3]]
    assert sliced == ["p00010", "p00013"]
    assert documents[0].default_text() == f"2008 Sichuan earthquake {documents[0].text}"
    store = dataset.docs_store()
    assert store.get("p00001") == documents[1]
    assert list(store.get_many(["p00000", "absent"])) == ["p00000"]


def test_squad_carries_its_licence() -> None:
    licence = (embedded.shipped_folder("squad") / "LICENSE.md").read_text(encoding="utf-8")
    for words in ("CC BY-SA 4.0", "org/licenses/by-sa/4.0", "Rajpurkar", "Wikipedia", "Changes made"):
        assert words in licence


UNREGISTERED = """
from retrobench import data
from retrobench.errors import RetrobenchError

for read in (lambda: data.load("retrobench/squad/test"), lambda: data.list_datasets(False)):
    try:
        read()
    except RetrobenchError as error:
        print(error)
data.register()
data.register()
print(data.load("retrobench/squad/test").query_count())
"""


def test_the_shipped_collection_has_to_be_registered() -> None:
    process = subprocess.run([sys.executable, "-c", UNREGISTERED], capture_output=True, text=True, check=True)
    load_error, list_error, count = process.stdout.splitlines()
    assert "'retrobench/squad/test'" in load_error
    assert "retrobench.data.register()" in load_error
    assert "retrobench.data.register()" in list_error
    assert count == "10570"


# Ids


@pytest.mark.parametrize(
    ("dataset_id", "message"),
    [
        ("retrobench/squad/tset", r"'.*/tset'\. Did you mean 'retrobench/squad/test'\?"),
        ("beir/nfcorpus/tst", r"Did you mean 'beir/nfcorpus/test'\?"),
        ("no/such/folder:dev", r"Known: retrobench/squad, .* PATH\[:SPLIT\]"),
    ],
)
def test_an_unknown_id_is_answered_with_known_ones(dataset_id: str, message: str) -> None:
    with refused(match=message):
        load(dataset_id)


def test_the_parent_has_documents_only() -> None:
    with refused(match=r"'retrobench/squad' has no queries\. .*retrobench/squad/train"):
        list(load(SQUAD).queries())
    with refused(match=r"'retrobench/squad' has no qrels\."):
        load(SQUAD).qrels()


def test_parents_mean_the_split_papers_report() -> None:
    assert load("beir/msmarco").id == "beir/msmarco/dev"
    assert load("beir/nfcorpus").id == "beir/nfcorpus/test"


def test_a_group_is_no_dataset() -> None:
    with refused(match=r"'beir' .*: beir/trec-covid, .*, beir/cqadupstack\.$"):
        load("beir")
    with refused(match=r"'beir/cqadupstack' .* beir/cqadupstack/android, "):
        load("beir/cqadupstack")


def test_datasets_of_ir_datasets_have_rules() -> None:
    assert load("beir/arguana").rule.drop_self
    assert load("beir/arguana").title == ""


def test_negatives_of_ir_datasets_are_the_second_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    class Triples:
        def docpairs_iter(self) -> list[GenericDocPair]:
            return [GenericDocPair("q", "yes", "no"), GenericDocPair("q", "yes", "never")]

    def reach(dataset_id: str, entity: str) -> Triples:
        assert entity == "docpairs"
        return Triples()

    # The real file is 1.8 GB. The line below the stub checks that ir_datasets has pairs under this name.
    monkeypatch.setattr(catalogue, "reach", reach)
    dataset = load("msmarco-passage/train/triples-v2")
    assert dataset.has("docpairs")
    assert list(dataset.negatives()) == [("q", "no"), ("q", "never")]


# Folders by name


def test_a_relative_folder_is_searched_in_the_working_directory_then_under_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    working_directory = tmp_path / "work"
    working_directory.mkdir()
    write_folder(root / "mine")
    monkeypatch.chdir(working_directory)
    monkeypatch.setenv("RETROBENCH_DATA", str(root))
    assert load("mine:test").id == "mine:test"
    assert load("mine").document_count() == 3
    write_folder(working_directory / "mine", documents=[("nearer", "", "")])
    assert list(load("mine").documents()) == [Document("nearer", "", "")]
    with refused(match=r"Looked here and in .*root\.$"):
        load("yours:dev")


def test_an_id_of_ir_datasets_comes_before_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "cranfield")
    monkeypatch.setenv("RETROBENCH_DATA", str(tmp_path))
    assert load("cranfield").document_count() == 1400
    assert load("./cranfield").document_count() == 3


def test_root_of_local_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETROBENCH_DATA", raising=False)
    monkeypatch.setenv("RETROBENCH_HOME", "store")
    assert local_root() == Path("store/collections")
    monkeypatch.delenv("RETROBENCH_HOME")
    assert local_root() == Path.home() / ".cache/retrobench/collections"
    monkeypatch.setenv("RETROBENCH_DATA", "~/data")
    assert local_root() == Path.home() / "data"


def test_a_missing_collection_names_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETROBENCH_DATA", str(tmp_path))
    with refused(match=r"'msmarco-titled' .* `retrobench data fetch msmarco-titled`"):
        load("msmarco-titled:dev")


# The shipped tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded.shipped_folder("tokenizer"))


def test_the_tokenizer_is_fast_and_has_8192_pieces(tokenizer: Any) -> None:
    assert tokenizer.is_fast
    assert len(tokenizer) == 8192
    assert tokenizer.vocab_size == 8192
    assert tokenizer.model_max_length == 512
    assert tokenizer.pad_token_id == 0
    assert tokenizer.unk_token_id == 1
    assert tokenizer.cls_token_id == 2
    assert tokenizer.sep_token_id == 3
    assert tokenizer.mask_token_id == 4
    file = embedded.shipped_folder("tokenizer") / "vocab.txt"
    pieces = file.read_text(encoding="utf-8").splitlines()
    assert tokenizer.get_vocab() == dict(zip(pieces, range(8192), strict=True))


def test_pieces_of_a_sentence_give_back_its_words(tokenizer: Any) -> None:
    encoded = tokenizer("The Café's earthquakes measured 8.0 in Sichuan")
    pieces = encoded.tokens()[1:-1]
    words: dict[int, str] = {}
    for number, piece in zip(encoded.word_ids()[1:-1], pieces, strict=True):
        words[number] = words.get(number, "") + piece.removeprefix("##")
    assert " ".join(words.values()) == "the cafe ' s earthquakes measured 8 . 0 in sichuan"
    assert len(words) < len(pieces)


def test_nearly_all_pieces_of_the_collection_are_known(tokenizer: Any) -> None:
    texts = [document.text for document in load(SQUAD).documents()][::100]
    total = 0
    unknown = 0
    for ids in tokenizer(texts, verbose=False)["input_ids"]:
        total += len(ids)
        unknown += ids.count(tokenizer.unk_token_id)
    assert unknown < 0.001 * total


def test_a_damaged_shipped_file_is_refused_when_first_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(embedded.shipped_folder("squad"), tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(collection, "shipped_folder", lambda name: tmp_path)
    file = tmp_path / "qrels" / "val.tsv.xz"
    assert len(collection._lines("qrels/val.tsv.xz")) > 1000
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RetrobenchError, match=r"val\.tsv\.xz is damaged: .*Install retrobench again\."):
        collection._lines("qrels/val.tsv.xz")
    file.unlink()
    with pytest.raises(RetrobenchError, match=r"Cannot read .*val\.tsv\.xz: No such file"):
        collection._lines("qrels/val.tsv.xz")
