"""Real ir_datasets and files: the shipped collection and tokenizer, folders, and what each mistake is told."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
from ir_datasets.formats import GenericDocPair

from retrobench.data import catalogue, embedded
from retrobench.data.datasets import Document, Query, load, local_root
from retrobench.data.embedded import SHIPPED, register
from retrobench.data.rules import Rule
from retrobench.errors import RetrobenchError

refused = functools.partial(pytest.raises, RetrobenchError)

SQUAD = "retrobench/squad"
COUNTS = {"train": 87599, "fit": 78264, "val": 9335, "test": 10570}

DOCS = [
    {"_id": "d1", "title": "Whales", "text": "A whale is no fish."},
    {"_id": "d2", "title": "", "text": ""},
    {"_id": "d3", "text": "Ships sail."},
]
QUERIES = [
    {"_id": "q1", "text": "what is a whale"},
    {"_id": "q2", "text": ""},
    {"_id": "q3", "text": "ships"},
]
QRELS = ["query-id\tcorpus-id\tscore", "q2\td3\t0", "q1\td1\t2", "q1\td2\t1", "q1\tgone\t1"]


def write(file: Path, lines: list[Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "corpus.jsonl", DOCS)
    write(tmp_path / "queries.jsonl", QUERIES)
    write(tmp_path / "qrels/test.tsv", QRELS)
    write(tmp_path / "qrels/dev.tsv", [QRELS[0], "q3\td1\t1"])
    return tmp_path


@pytest.mark.parametrize("split", COUNTS)
def test_squad_split_is_complete_and_resolves(split: str) -> None:
    dataset = load(f"{SQUAD}/{split}")
    documents = {document.id for document in dataset.documents()}
    queries = [query.id for query in dataset.queries()]
    qrels = dataset.qrels()
    assert len(documents) == dataset.document_count() == 20958
    assert len(queries) == len(set(queries)) == dataset.query_count() == COUNTS[split]
    assert queries == list(qrels)
    assert all(set(grades) <= documents and set(grades.values()) == {1} for grades in qrels.values())


def test_squad_fit_and_val_share_no_article() -> None:
    title = {document.id: document.title for document in load(SQUAD).documents()}
    fit, val, train = (load(f"{SQUAD}/{split}").qrels() for split in ("fit", "val", "train"))
    articles = [{title[key] for grades in qrels.values() for key in grades} for qrels in (fit, val)]
    assert fit | val == train
    assert not articles[0] & articles[1]
    assert [len(each) for each in articles] == [397, 45]  # of SQuAD's 442


def test_squad_example_checked_by_hand() -> None:
    dataset = load(f"{SQUAD}/test")
    assert next(dataset.queries()) == Query("dev00001", "When did the 1973 oil crisis begin?")
    assert dataset.qrels()["dev00001"] == {"p18891": 1}
    document = next(document for document in dataset.documents() if document.id == "p18891")
    assert document.title == "1973 oil crisis"
    assert document.text.startswith("The 1973 oil crisis began in October 1973 when the members of")


def test_squad_in_ir_datasets_own_terms() -> None:
    register()  # a second call must not raise
    assert set(SHIPPED) <= set(ir_datasets.registry)
    dataset = ir_datasets.load(f"{SQUAD}/fit")
    assert ir_datasets.docs_parent_id(f"{SQUAD}/fit") == SQUAD
    assert dataset.docs_count() == len(dataset.docs) == 20958
    assert (dataset.queries_count(), dataset.qrels_count()) == (78264, 78264)
    first, second = dataset.docs_iter()[0], dataset.docs_iter()[1:2][0]
    assert (first.doc_id, second.doc_id, dataset.docs_iter()[-1].doc_id) == ("p00000", "p00001", "p20957")
    assert [doc.doc_id for doc in dataset.docs_iter()[10:16:3]] == ["p00010", "p00013"]
    assert first.default_text() == f"2008 Sichuan earthquake {first.text}"
    store = dataset.docs_store()
    assert store.get("p00001") == second
    assert list(store.get_many(["p00000", "absent"])) == ["p00000"]
    assert next(dataset.qrels_iter())[:3] == ("train00001", "p00000", 1)


def test_squad_carries_its_licence() -> None:
    licence = (embedded.shipped_folder("squad") / "LICENSE.md").read_text(encoding="utf-8")
    for owed in ("CC BY-SA 4.0", "org/licenses/by-sa/4.0", "Rajpurkar", "Wikipedia", "Changes made"):
        assert owed in licence


def test_folder_gives_what_its_files_say(folder: Path) -> None:
    dataset = load(str(folder))
    assert list(dataset.documents()) == [
        Document("d1", "Whales", "A whale is no fish."),
        Document("d2", "", ""),
        Document("d3", "", "Ships sail."),
    ]
    assert list(dataset.queries()) == [Query("q2", ""), Query("q1", "what is a whale")]
    assert dataset.qrels() == {"q2": {"d3": 0}, "q1": {"d1": 2, "d2": 1, "gone": 1}}
    assert (dataset.document_count(), dataset.query_count()) == (3, 2)
    assert list(load(f"{folder}:dev").queries()) == [Query("q3", "ships")]


def test_reading_a_folder_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    list(load(str(folder)).documents())
    list(load(str(folder)).queries())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("file", "lines", "corpus"),
    [
        ("corpus.jsonl", [{**DOCS[0], "text": "A whale is a fish."}, *DOCS[1:]], True),
        ("corpus.jsonl", [{"_id": "d1", "title": "WhalesA", "text": " whale is no fish."}, *DOCS[1:]], True),
        ("corpus.jsonl", [DOCS[1], DOCS[0], DOCS[2]], True),
        ("queries.jsonl", [{"_id": "q1", "text": "what is a fish"}, *QUERIES[1:]], False),
        ("qrels/test.tsv", [*QRELS[:2], "q1\td1\t1", *QRELS[3:]], False),
    ],
)
def test_fingerprint_changes_with_any_content(folder: Path, file: str, lines: list[Any], corpus: bool) -> None:
    dataset = load(str(folder))
    before = dataset.fingerprint(), dataset.corpus_fingerprint()
    assert before == (dataset.fingerprint(), dataset.corpus_fingerprint())
    write(folder / file, lines)
    assert dataset.fingerprint() != before[0]
    assert (dataset.corpus_fingerprint() != before[1]) is corpus


@pytest.mark.parametrize(
    ("dataset_id", "told"),
    [
        ("retrobench/squad/tset", r"^Unknown dataset '.*/tset'\. Did you mean 'retrobench/squad/test'\?"),
        ("beir/nfcorpus/tst", r"Did you mean 'beir/nfcorpus/test'\?"),
        ("no/such/folder:dev", r"Known: retrobench/squad, .* PATH\[:SPLIT\]; no such folder was found\."),
    ],
)
def test_unknown_id(dataset_id: str, told: str) -> None:
    with refused(match=told):
        load(dataset_id)


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
    done = subprocess.run([sys.executable, "-c", UNREGISTERED], capture_output=True, text=True, check=True)
    loaded, listed, count = done.stdout.splitlines()
    assert "'retrobench/squad/test' ships with retrobench" in loaded
    assert "retrobench.data.register()" in loaded and "retrobench.data.register()" in listed
    assert count == "10570"


def test_parent_has_documents_only() -> None:
    with refused(match=r"'retrobench/squad' has no queries\. Its subsets: retrobench/squad/train,"):
        list(load(SQUAD).queries())
    with refused(match=r"'retrobench/squad' has no qrels\."):
        load(SQUAD).qrels()


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([{"_id": "q1"}, '{"_id": "q2"'], r"line 2: not a JSON object \(Expecting"),
        ([{"_id": "q1"}, ""], r"line 2: not a JSON object"),
        (["[]"], r"line 1: not a JSON object with a string '_id'\."),
        ([{"_id": 1}], r"line 1: not a JSON object with a string '_id'\."),
        ([{"_id": "q1", "text": ["a"]}], r"line 1: 'text' is not a string but \['a'\]\."),
        ([{"_id": "q1"}, {"_id": "q2"}, {"_id": "q1"}], r"line 3: id 'q1' was used on line 1\."),
        ([], r"is empty; one JSON object per line is expected\."),
    ],
)
def test_faulty_records_name_file_and_line(folder: Path, name: str, lines: list[Any], told: str) -> None:
    write(folder / name, lines)
    dataset = load(str(folder))
    with refused(match=rf"{name}.*{told}"):
        list(dataset.documents() if name == "corpus.jsonl" else dataset.queries())


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (QRELS[1:], r"test\.tsv has no header; let its first line be query-id, corpus-id, score\."),
        ([*QRELS, "q1 d1 1"], r"test\.tsv, line 6: a query id, .* expected, not \['q1 d1 1'\]\."),
        ([*QRELS, "q1\td3\t0.5"], r"test\.tsv, line 6: "),
    ],
)
def test_faulty_judgements_name_file_and_line(folder: Path, lines: list[str], told: str) -> None:
    write(folder / "qrels/test.tsv", lines)
    for read in (load(str(folder)).qrels, lambda: list(load(str(folder)).queries())):
        with refused(match=told):
            read()


def test_judgements_that_contradict_or_dangle_are_named(folder: Path) -> None:
    write(folder / "qrels/test.tsv", [*QRELS, "q1\td1\t2"])
    assert load(str(folder)).qrels()["q1"]["d1"] == 2  # said twice, but the same
    write(folder / "qrels/test.tsv", [*QRELS, "q1\td1\t0"])
    with refused(match=r"query 'q1' and document 'd1' twice, as 2 and as 0"):
        load(str(folder)).qrels()
    write(folder / "qrels/test.tsv", [*QRELS, "q9\td1\t1"])
    with refused(match=r"test\.tsv judges query 'q9', which .*queries\.jsonl lacks\."):
        list(load(str(folder)).queries())


def test_files_are_missed_only_when_asked_for(folder: Path) -> None:
    with refused(match=r"No file .*train\.tsv\. Splits there: dev, test; name one as .*:SPLIT\."):
        load(f"{folder}:train").qrels()
    (folder / "queries.jsonl").unlink()
    with refused(match=r"has no queries\.jsonl, so no queries"):
        list(load(str(folder)).queries())
    assert [document.id for document in load(f"{folder}:absent").documents()] == ["d1", "d2", "d3"]
    (folder / "corpus.jsonl").unlink()
    with refused(match=r"has no corpus\.jsonl; BEIR's layout is corpus\.jsonl, queries"):
        load(str(folder))


def test_a_folder_without_a_description_has_the_default_rule(folder: Path) -> None:
    dataset = load(str(folder))
    assert (dataset.title, dataset.rule) == ("", Rule())
    assert load("beir/arguana").rule.drop_self
    assert load("beir/arguana").title == ""


def test_description_gives_title_and_rule_by_split(folder: Path) -> None:
    described = ['title = "Whales"', "relevance_level = 2", 'measures = ["MRR@10"]', "[splits.dev]", "drop_self = true"]
    write(folder / "dataset.toml", [*described, "relevance_level = 3"])
    test, dev = load(str(folder)), load(f"{folder}:dev")
    assert test.title == dev.title == "Whales"
    assert test.rule == Rule(relevance_level=2, measures=("MRR@10",), note="Whales")
    assert dev.rule == Rule(drop_self=True, relevance_level=3, measures=("MRR@10",), note="Whales")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ["drop_sefl = true"],
            r"Unknown setting 'drop_sefl'\. Did you mean 'drop_self'\? .*dataset\.toml\)\.$",
        ),
        (
            ['[splits.test]\nrelevance_level = "2"'],
            r"^relevance_level must be a whole number, got '2' \(",
        ),
        (["relevance_level = 0"], r"^relevance_level is 0, and grade 0 means not relevant \(.*dataset\.toml\)\."),
        (["drop_self = "], r"dataset\.toml is not TOML \("),
        (["title = 1"], r"dataset\.toml: title must be a text, and splits a table like \[splits\.test\]\."),
        (["splits = 1"], r"dataset\.toml: title must be a text, and splits"),
    ],
)
def test_faulty_descriptions_are_refused_in_one_line(folder: Path, lines: list[str], told: str) -> None:
    write(folder / "dataset.toml", lines)
    with refused(match=told):
        _ = load(str(folder)).rule


def test_negatives_of_a_folder_and_of_none(folder: Path) -> None:
    write(folder / "negatives/dev.tsv", ["query-id\tcorpus-id", "q3\td2", "q3\td3"])
    assert list(load(f"{folder}:dev").negatives()) == [("q3", "d2"), ("q3", "d3")]
    with refused(match=r"No file .*test\.tsv\. Splits with negatives there: dev\."):
        load(str(folder)).negatives()
    with refused(match=r"'retrobench/squad/train' has no docpairs\."):
        list(load(f"{SQUAD}/train").negatives())


def test_negatives_of_the_catalogue_are_the_second_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    class Triples:
        def docpairs_iter(self) -> list[GenericDocPair]:
            return [GenericDocPair("q", "yes", "no"), GenericDocPair("q", "yes", "never")]

    # The real file is 1.8 GB; that ir_datasets has pairs under this name is checked beside.
    monkeypatch.setattr(catalogue, "reach", lambda name, entity: Triples() if entity == "docpairs" else None)
    dataset = load("msmarco-passage/train/triples-v2")
    assert dataset.has("docpairs")
    assert list(dataset.negatives()) == [("q", "no"), ("q", "never")]


def test_parents_mean_the_split_papers_report() -> None:
    assert load("beir/msmarco").id == "beir/msmarco/dev"
    assert load("beir/nfcorpus").id == "beir/nfcorpus/test"
    with refused(match=r"^'beir' is a group of datasets, .*: beir/trec-covid, .*, beir/cqadupstack\.$"):
        load("beir")
    with refused(match=r"^'beir/cqadupstack' is a group .* beir/cqadupstack/android, "):
        load("beir/cqadupstack")


def test_relative_folders_are_looked_up_here_then_under_the_root(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, here = tmp_path / "root", tmp_path / "here"
    for place in (root / "mine", root / "cranfield"):
        write_copy(folder, place)
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("RETROBENCH_DATA", str(root))
    assert load("mine:dev").id == "mine:dev"
    assert load("mine").document_count() == 3
    assert next(load("./cranfield").documents()).id == "d1"  # the catalogue's comes first under its bare name
    write_copy(folder, here / "mine")
    (here / "mine" / "corpus.jsonl").write_text('{"_id": "nearer"}\n')
    assert [document.id for document in load("mine").documents()] == ["nearer"]
    with refused(match=r"no such folder was found\. Looked here and in .*root\.$"):
        load("yours:dev")


def write_copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (target / name).write_bytes((source / name).read_bytes())
    write(target / "qrels/dev.tsv", [QRELS[0], "q3\td1\t1"])


def test_root_of_local_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETROBENCH_DATA", raising=False)
    monkeypatch.setenv("RETROBENCH_HOME", "store")
    assert local_root() == Path("store/collections")
    monkeypatch.delenv("RETROBENCH_HOME")
    assert local_root() == Path.home() / ".cache/retrobench/collections"
    monkeypatch.setenv("RETROBENCH_DATA", "~/data")
    assert local_root() == Path.home() / "data"


def test_a_collection_that_can_be_made_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETROBENCH_DATA", str(tmp_path))
    with refused(match=r"'msmarco-titled' is not there yet: .* `retrobench data fetch msmarco-titled` makes it\."):
        load("msmarco-titled:dev")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded.shipped_folder("tokenizer"))


def test_tokenizer_is_fast_and_of_the_size_promised(tokenizer: Any) -> None:
    assert tokenizer.is_fast
    assert len(tokenizer) == tokenizer.vocab_size == 8192
    assert tokenizer.model_max_length == 512
    names = ("pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    assert [getattr(tokenizer, name) for name in names] == [0, 1, 2, 3, 4]
    pieces = (embedded.shipped_folder("tokenizer") / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert tokenizer.get_vocab() == {piece: number for number, piece in enumerate(pieces)}


def test_tokenizer_word_ids_give_back_words_nearly_all_known(tokenizer: Any) -> None:
    encoded = tokenizer("The Café's earthquakes measured 8.0 in Sichuan")
    words: dict[int, str] = {}
    for number, piece in zip(encoded.word_ids()[1:-1], encoded.tokens()[1:-1], strict=True):
        words[number] = words.get(number, "") + piece.removeprefix("##")
    assert " ".join(words.values()) == "the cafe ' s earthquakes measured 8 . 0 in sichuan"
    assert len(words) < len(encoded.tokens()) - 2
    texts = [document.text for document in load(SQUAD).documents()][::100]
    pieces = [piece for ids in tokenizer(texts, verbose=False)["input_ids"] for piece in ids]
    assert pieces.count(tokenizer.unk_token_id) < 0.001 * len(pieces)
