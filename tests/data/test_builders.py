"""Collections built from small sources in exactly the published layouts, put beside them by hand."""

from __future__ import annotations

import errno
import functools
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ir_datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrobench.data import build as builders
from retrobench.data.build import sbert, titled
from retrobench.data.datasets import Document, Query, load
from retrobench.errors import RetrobenchError

refused = functools.partial(pytest.raises, RetrobenchError)

MARCO = {
    # Neither file in numerical order, a title missing, another one the placeholder that RocketQA's own code writes.
    "para.txt": (
        "0\tAtoms are small.\n10\tBread rises.\n2\tCaf\u00e9s open \u2028 early.\tdropped by join\n3\tDogs bark.\n"
    ),
    "para.title.txt": "10\tBaking\n0\tAtom\n2\t-\n",
    "train.query.txt": "700\twhat is an atom\n800\twhy does bread rise\n900\tjudged nowhere\n",
    "dev.query.txt": "71\tdo dogs bark\n",
    "qrels.dev.tsv": "71\t3\n",
}
OFFICIAL = {
    "qrels.train.tsv": "800\t0\t10\t1\n700\t0\t0\t1\n700\t0\t2\t1\n",
    "msmarco-test2019-queries.tsv": "19\tcafe hours\n1999\tjudged nowhere\n",
    "2019qrels-pass.txt": "19 Q0 2 3\n19 Q0 0 0\n",
    "msmarco-test2020-queries.tsv": "20\tbarking\n",
    "2020qrels-pass.txt": "20 0 3 1\n",
    # Windows line ends as published; 700 has a fourth negative after 800's.
    "qidpidtriples.train.full.2.tsv": "700\t0\t3\r\n700\t0\t10\r\n700\t2\t3\r\n800\t10\t2\r\n700\t0\t2\r\n",
}


def archive(file: Path, members: Mapping[str, str], folder: str = "") -> None:
    with tarfile.open(file, "w:gz") as tar:
        for name, text in members.items():
            entry = tarfile.TarInfo(folder + name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))


def put(place: Path, texts: Mapping[str, str]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with gzip.open(place / name, "wb") if name.endswith(".gz") else (place / name).open("wb") as file:
            file.write(text.encode())


def beside(folder: Path, end: str) -> Path:
    return folder.with_name(f"{folder.name}.{end}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "collection"


@pytest.fixture
def marco(folder: Path) -> Path:
    """The folder of msmarco-titled, all its sources in place."""
    put(beside(folder, "sources"), OFFICIAL)
    archive(beside(folder, "sources") / "marco.tar.gz", MARCO, "marco/")
    return folder


def test_the_builders_are_the_three_collections_with_the_published_counts() -> None:
    assert list(builders.BUILDERS) == ["msmarco-titled", "msmarco-sbert", "wikibook"]
    metadata = {name: ir_datasets.load(f"msmarco-passage{name}").metadata() for name in ("", "/train", "/train/judged")}
    dev, dl19, dl20 = (
        ir_datasets.load(f"msmarco-passage/{name}").metadata() for name in ("dev/small", "trec-dl-2019", "trec-dl-2020")
    )
    judged = [ir_datasets.load(f"msmarco-passage/trec-dl-{year}/judged").metadata() for year in (2019, 2020)]
    found = {
        "passages": metadata[""]["docs"]["count"],
        "train queries": metadata["/train/judged"]["queries"]["count"],
        "train judgements": metadata["/train"]["qrels"]["count"],
        "dev queries": dev["queries"]["count"],
        "dev judgements": dev["qrels"]["count"],
        "dl19 queries": judged[0]["queries"]["count"],
        "dl19 judgements": dl19["qrels"]["count"],
        "dl20 queries": judged[1]["queries"]["count"],
        "dl20 judgements": dl20["qrels"]["count"],
    }
    assert found == titled.PUBLISHED
    assert dict(list(found.items())[:3]) == sbert.PUBLISHED
    triples = ir_datasets.load("msmarco-passage/train/triples-v2").metadata()
    assert triples["docpairs"]["count"] == titled.TRIPLES


def test_titled_joins_by_number_and_keeps_the_first_negatives(marco: Path) -> None:
    made = titled.Titled(negatives=3, sample=True)(marco)
    assert made == (
        "4 passages, 3 with a title; queries: 2 train, 1 dev, 1 dl19, 1 dl20; "
        "4 negatives, the first 3 of each training query."
    )
    train = load(f"{marco}:train")
    assert list(train.documents()) == [
        Document("0", "Atom", "Atoms are small."),
        Document("2", "-", "Caf\u00e9s open \u2028 early."),
        Document("3", "", "Dogs bark."),
        Document("10", "Baking", "Bread rises."),
    ]
    assert list(train.queries()) == [Query("800", "why does bread rise"), Query("700", "what is an atom")]
    assert train.qrels() == {"800": {"10": 1}, "700": {"0": 1, "2": 1}}
    assert list(train.negatives()) == [("700", "3"), ("700", "10"), ("700", "3"), ("800", "2")]
    assert list(load(f"{marco}:dev").queries()) == [Query("71", "do dogs bark")]
    assert load(f"{marco}:dl19").qrels() == {"19": {"2": 3, "0": 0}}
    assert list(load(f"{marco}:dl20").queries()) == [Query("20", "barking")]
    assert [load(f"{marco}:{split}").rule.relevance_level for split in ("train", "dev", "dl19", "dl20")] == [1, 1, 2, 2]
    assert load(f"{marco}:dev").rule.measures[0] == "MRR@10"
    assert load(f"{marco}:dl19").rule.measures[0] == "nDCG@10"
    assert load(f"{marco}:dev").title == "MS MARCO passages with RocketQA's titles"
    assert {file.name for file in marco.iterdir()} == {
        *("corpus.jsonl", "queries.jsonl", "qrels", "negatives", "dataset.toml"),
    }
    assert not beside(marco, "partial").exists()
    with refused(match=r"is there already\. Move it away"):
        titled.Titled(sample=True)(marco)


def test_a_collection_short_of_the_published_counts_is_refused(marco: Path) -> None:
    with refused(match=r"^4 passages were found where 8,841,823 are published: .* Remove it from .*\.sources"):
        titled.Titled()(marco)
    assert not marco.exists()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("qrels.dev.tsv", "71\t3\n72\t3\n", r"The dev judgements name query 72, of which no text was found\."),
        ("qrels.dev.tsv", "71\t5\n", r"The dev judgements name passage 5, which para\.txt lacks\."),
        ("qrels.dev.tsv", "71\t3\t1\n", r"qrels\.dev\.tsv, line 1: a judgement in two or four columns was expected"),
        ("para.txt", "0\tA\nB\n", r"para\.txt, line 2: a passage id, a tab and a text were expected\."),
        ("para.title.txt", "0\tA\n1\tB\n0\tC\n", r"para\.title\.txt has passage 0 twice\."),
        ("dev.query.txt", "71 no tab\n", r"dev\.query\.txt, line 1: an id, a tab and a text were expected\."),
        ("qidpidtriples.train.full.2.tsv", "700\t0\n", r"full\.2\.tsv is damaged \(.*3 columns, got 2: 700"),
    ],
)
def test_a_faulty_source_is_named(marco: Path, name: str, text: str, told: str) -> None:
    if name in OFFICIAL:
        put(beside(marco, "sources"), {name: text})
    else:
        put(beside(marco, "sources") / "marco", {**MARCO, name: text})  # an unpacked archive comes before a packed one
    with refused(match=told):
        titled.Titled(sample=True)(marco)
    assert not marco.exists()


def test_an_interrupted_build_leaves_no_collection_and_the_next_starts_from_the_sources(marco: Path) -> None:
    whole = (beside(marco, "sources") / "marco.tar.gz").read_bytes()
    (beside(marco, "sources") / "marco.tar.gz").write_bytes(whole[: len(whole) // 2])
    with refused(match=r"marco\.tar\.gz is damaged \(.*\)\. Remove it and run the same command again\."):
        titled.Titled(sample=True)(marco)
    assert not marco.exists() and not beside(marco, "partial").exists()
    put(beside(marco, "partial"), {"stale.txt": "of a process that was killed"})
    (beside(marco, "sources") / "marco.tar.gz").write_bytes(whole)
    titled.Titled(sample=True)(marco)
    assert not (marco / "stale.txt").exists()
    assert load(f"{marco}:train").document_count() == 4


def test_a_full_disk_is_told_in_one_line(marco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(titled, "write_queries", full)
    with refused(match=r"^The disk is full: .*collection was not made\. Free space and run the same command again\.$"):
        titled.Titled(sample=True)(marco)
    assert not beside(marco, "partial").exists()


def test_what_is_not_beside_the_folder_comes_from_ir_datasets(folder: Path, tmp_path: Path) -> None:
    # Where ir_datasets keeps these files in its home, which it knows once and for all when imported.
    kept = {
        "train/qrels": OFFICIAL["qrels.train.tsv"],
        "trec-dl-2019/queries.tsv": OFFICIAL["msmarco-test2019-queries.tsv"],
        "trec-dl-2019/qrels": OFFICIAL["2019qrels-pass.txt"],
        "trec-dl-2020/queries.tsv.gz": OFFICIAL["msmarco-test2020-queries.tsv"],
        "trec-dl-2020/qrels": OFFICIAL["2020qrels-pass.txt"],
    }
    for name, text in kept.items():
        (tmp_path / "irds/msmarco-passage" / name).parent.mkdir(parents=True, exist_ok=True)
        put(tmp_path / "irds/msmarco-passage", {name: text})
    put(beside(folder, "sources") / "marco", MARCO)
    environment = os.environ | {
        "IR_DATASETS_HOME": str(tmp_path / "irds"),
        "IR_DATASETS_DL_TRIES": "1",
        **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9"),  # nobody listens there
    }
    program = f"""
from pathlib import Path
from retrobench.data.build.titled import Titled
from retrobench.errors import RetrobenchError
folder = Path({str(folder)!r})
try:
    Titled(sample=True)(folder)
except RetrobenchError as error:
    print(error)
triples = Path({str(tmp_path)!r}, "irds/msmarco-passage/train/qidpidtriples.train.full.2.tsv.gz")
triples.write_bytes(bytes.fromhex({gzip.compress(OFFICIAL["qidpidtriples.train.full.2.tsv"].encode()).hex()!r}))
print(Titled(sample=True)(folder))
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    refusal, made = done.stdout.splitlines()
    assert "msmarcoranking/qidpidtriples.train.full.2.tsv.gz" in refusal
    assert made.startswith("4 passages, 3 with a title; queries: 2 train, 1 dev, 1 dl19, 1 dl20; 5 negatives")
    assert load(f"{folder}:dl20").qrels() == {"20": {"3": 1}}


HARD = "msmarco-hard-negatives.jsonl.gz"
SYSTEM = {"bm25": [1, 2, 3, 4, 5, 6, 7], "msmarco-MiniLM-L-6-v3": [2, 8, 100], "no-system-of-the-recipe": [9]}
# The lower of two positives has 4.5, so what scores above 1.5 is left out: 1, 3 and 8. Nobody scored 7.
SCORES = {100: 9.0, 101: 4.5, 1: 1.75, 2: 1.5, 3: 8.0, 4: -2.0, 5: 0.0, 6: -9.0, 8: 2.0, 9: -5.0}
COLLECTION = "1\tThe caf\u00c3\u00a9 is open.\n2\tSecond.\n"


def untitled(folder: Path, mined: Mapping[str, Any], name: str = HARD) -> Path:
    """The folder of msmarco-sbert with its sources in place; returns those."""
    place = beside(folder, "sources")
    put(place, {name: json.dumps(mined) + "\n", "qrels.train.tsv": "5\t0\t100\t1\n5\t0\t101\t1\n"})
    archive(place / "queries.tar.gz", {"queries.train.tsv": "4\tunjudged\n5\tasked\n", "queries.dev.tsv": ""})
    archive(place / "collectionandqueries.tar.gz", {"collection.tsv": COLLECTION})
    return place


def bare() -> dict[str, Any]:
    return {"qid": 5, "pos": [100, 101], "neg": SYSTEM}


def scored() -> dict[str, Any]:
    def item(passage: int) -> dict[str, Any]:
        return {"pid": passage, "ce-score": SCORES.get(passage, 5.0)}

    systems = {name: [item(passage) for passage in passages] for name, passages in SYSTEM.items()}
    return {"qid": 5, "pos": [item(100), item(101)], "neg": systems}


def chosen(folder: Path) -> list[int]:
    return [int(passage) for _, passage in load(f"{folder}:train").negatives()]


def test_sbert_keeps_what_scores_a_margin_below_the_lowest_positive(folder: Path) -> None:
    untitled(folder, scored())
    made = sbert.Sbert(sample=True)(folder)
    assert made == (
        "2 passages without titles; 1 train queries; 4 negatives, cross-encoder margin 3, "
        "at most 5 from each of 4 systems."
    )
    train = load(f"{folder}:train")
    assert list(train.documents()) == [Document("1", "", "The caf\u00e9 is open."), Document("2", "", "Second.")]
    assert list(train.queries()) == [Query("5", "asked")]
    assert train.qrels() == {"5": {"100": 1, "101": 1}}
    assert list(train.negatives()) == [("5", "2"), ("5", "4"), ("5", "5"), ("5", "6")]
    assert train.title.endswith("hard negatives, cross-encoder margin 3")


def test_sbert_takes_so_many_of_a_system_and_each_passage_once(folder: Path) -> None:
    untitled(folder, scored())
    sbert.Sbert(per_system=2, margin=2.0, sample=True)(folder)
    assert chosen(folder) == [1, 2, 8]  # bm25 gives 1 and 2; then MiniLM's 2 is there, 100 is a positive


def test_sbert_unfiltered_leaves_out_the_positives_alone(folder: Path) -> None:
    untitled(folder, bare())
    assert " 6 negatives, unfiltered, at most 5 " in sbert.Sbert(margin=None, sample=True)(folder)
    assert chosen(folder) == [1, 2, 3, 4, 5, 8]
    assert load(f"{folder}:train").title.endswith("hard negatives, unfiltered")


@pytest.mark.parametrize("name", [HARD, sbert.HUB_NEGATIVES.name])
@pytest.mark.parametrize("kind", ["scores.tsv", "int", "string"])
def test_sbert_reads_the_scores_of_bare_ids_from_elsewhere(folder: Path, kind: str, name: str) -> None:
    place = untitled(folder, bare(), name)
    other = {100: 0.0, 2: 0.0}  # of another query, which must not be taken for 5's
    if kind == "scores.tsv":
        rows = [f"{query}\t{key}\t{value}" for query, of in ((4, other), (5, SCORES)) for key, value in of.items()]
        put(place, {"scores.tsv": "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"})
    else:
        as_is: Any = int if kind == "int" else str
        columns = {
            "query_id": [as_is(4), as_is(5)],
            "corpus_id": [[as_is(key) for key in of] for of in (other, SCORES)],
            "score": [list(other.values()), list(SCORES.values())],
        }
        (place / "scores/list").mkdir(parents=True)
        pq.write_table(pa.table(columns), place / "scores/list/train-00000-of-00001.parquet")
    sbert.Sbert(sample=True)(folder)
    assert chosen(folder) == [2, 4, 5, 6]


@pytest.mark.parametrize(
    ("mined", "told"),
    [
        ({"qid": 5, "pos": []}, r"gz, line 1: no negatives mined for a query \(KeyError: 'neg'\)\."),
        ({**bare(), "neg": {"another": [1]}}, r"gz names no negatives of bm25, .* for a training query\."),
    ],
)
def test_sbert_refuses_a_file_of_another_kind(folder: Path, mined: dict[str, Any], told: str) -> None:
    untitled(folder, mined)
    with refused(match=told):
        sbert.Sbert(margin=None, sample=True)(folder)


def test_sbert_wants_the_scores_of_a_query_together(folder: Path) -> None:
    place = untitled(folder, bare())
    put(place, {"scores.tsv": "5\t1\t0.5\n4\t1\t0.5\n5\t2\t0.5\n"})
    with refused(match=r"The scores of query 5 do not stand together; sort .*scores\.tsv\."):
        sbert.Sbert(sample=True)(folder)
    put(place, {"scores.tsv": "5\t1\tgood\n"})
    with refused(match=r"scores\.tsv, query 5: "):
        sbert.Sbert(sample=True)(folder)
