"""`msmarco-titled`, built from small sources in the published layouts."""

from __future__ import annotations

import errno
import functools
import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
from source_files import sources_of, write_archive, write_sources

from retrobench.data import build as builders
from retrobench.data.build import sbert, titled
from retrobench.data.datasets import Document, Query, load
from retrobench.errors import RetrobenchError

refused = functools.partial(pytest.raises, RetrobenchError)

ROCKETQA = {
    # Neither file is in numerical order. A title is missing, and another is RocketQA's own placeholder.
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
    # Windows line ends as published. Query 700 has a fourth negative after query 800's.
    "qidpidtriples.train.full.2.tsv": "700\t0\t3\r\n700\t0\t10\r\n700\t2\t3\r\n800\t10\t2\r\n700\t0\t2\r\n",
}

small = titled.Titled(negatives=3, sample=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder to build, with all its sources in place."""
    folder = tmp_path / "collection"
    write_sources(sources_of(folder), OFFICIAL)
    write_archive(sources_of(folder) / "marco.tar.gz", ROCKETQA, "marco/")
    return folder


def test_the_builders_are_three() -> None:
    assert list(builders.BUILDERS) == ["msmarco-titled", "msmarco-sbert", "wikibook"]


def recorded(dataset_id: str, entity: str) -> Any:
    """Return ir_datasets' recorded count."""
    return ir_datasets.load(f"msmarco-passage{dataset_id}").metadata()[entity]["count"]


def test_published_counts_are_those_of_ir_datasets() -> None:
    counts = {
        "passages": recorded("", "docs"),
        "train queries": recorded("/train/judged", "queries"),
        "train judgements": recorded("/train", "qrels"),
        "dev queries": recorded("/dev/small", "queries"),
        "dev judgements": recorded("/dev/small", "qrels"),
        "dl19 queries": recorded("/trec-dl-2019/judged", "queries"),
        "dl19 judgements": recorded("/trec-dl-2019", "qrels"),
        "dl20 queries": recorded("/trec-dl-2020/judged", "queries"),
        "dl20 judgements": recorded("/trec-dl-2020", "qrels"),
    }
    assert counts == titled.PUBLISHED
    assert sbert.PUBLISHED.items() <= counts.items()
    assert recorded("/train/triples-v2", "docpairs") == titled.TRIPLES


def test_passages_get_their_titles_and_stand_in_numerical_order(folder: Path) -> None:
    summary = small(folder)
    assert "4 passages, 3 with a title" in summary
    assert list(load(f"{folder}:train").documents()) == [
        Document("0", "Atom", "Atoms are small."),
        Document("2", "-", "Caf\u00e9s open \u2028 early."),
        Document("3", "", "Dogs bark."),
        Document("10", "Baking", "Bread rises."),
    ]


def test_each_split_has_its_judged_queries(folder: Path) -> None:
    summary = small(folder)
    assert "queries: 2 train, 1 dev, 1 dl19, 1 dl20" in summary
    train = load(f"{folder}:train")
    assert list(train.queries()) == [Query("800", "why does bread rise"), Query("700", "what is an atom")]
    assert train.qrels() == {"800": {"10": 1}, "700": {"0": 1, "2": 1}}
    assert list(load(f"{folder}:dev").queries()) == [Query("71", "do dogs bark")]
    assert load(f"{folder}:dl19").qrels() == {"19": {"2": 3, "0": 0}}
    assert list(load(f"{folder}:dl20").queries()) == [Query("20", "barking")]


def test_the_first_negatives_of_each_query_are_written(folder: Path) -> None:
    summary = small(folder)
    assert "4 negatives, the first 3 of each training query" in summary
    assert list(load(f"{folder}:train").negatives()) == [("700", "3"), ("700", "10"), ("700", "3"), ("800", "2")]


def test_each_split_has_its_rule(folder: Path) -> None:
    small(folder)
    assert load(f"{folder}:dev").title == "MS MARCO passages with RocketQA's titles"
    for split in ("train", "dev"):
        assert load(f"{folder}:{split}").rule.relevance_level == 1
        assert load(f"{folder}:{split}").rule.measures[0] == "MRR@10"
    for split in ("dl19", "dl20"):
        assert load(f"{folder}:{split}").rule.relevance_level == 2
        assert load(f"{folder}:{split}").rule.measures[0] == "nDCG@10"


def test_a_finished_folder_holds_the_collection_alone_and_is_not_built_again(folder: Path) -> None:
    small(folder)
    names = {file.name for file in folder.iterdir()}
    assert names == {"corpus.jsonl", "queries.jsonl", "qrels", "negatives", "dataset.toml"}
    assert not folder.with_name("collection.partial").exists()
    with refused(match="is there already"):
        small(folder)


def test_counts_other_than_the_published_ones_are_refused(folder: Path) -> None:
    with refused(match=r"^4 passages .* 8,841,823 are published: .* Remove it from .*\.sources"):
        titled.Titled()(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("qrels.dev.tsv", "71\t3\n72\t3\n", "dev judgements name query 72"),
        ("qrels.dev.tsv", "71\t5\n", r"dev judgements name passage 5, .*para\.txt"),
        ("qrels.dev.tsv", "71\t3\t1\n", r"qrels\.dev\.tsv, line 1: a judgement in two or four columns"),
        ("para.txt", "0\tA\nB\n", r"para\.txt, line 2: a passage id, a tab and a text"),
        ("para.title.txt", "0\tA\n1\tB\n0\tC\n", r"para\.title\.txt has passage 0 twice"),
        ("dev.query.txt", "71 no tab\n", r"dev\.query\.txt, line 1: an id, a tab and a text"),
        ("qidpidtriples.train.full.2.tsv", "700\t0\n", r"full\.2\.tsv is damaged \(.*3 columns, got 2: 700"),
    ],
)
def test_a_faulty_source_is_named(folder: Path, name: str, text: str, message: str) -> None:
    if name in OFFICIAL:
        write_sources(sources_of(folder), {name: text})
    else:
        # An unpacked archive comes before a packed one.
        write_sources(sources_of(folder) / "marco", {**ROCKETQA, name: text})
    with refused(match=message):
        small(folder)
    assert not folder.exists()


def test_an_interrupted_build_leaves_no_collection_and_the_next_starts_from_the_sources(folder: Path) -> None:
    archive = sources_of(folder) / "marco.tar.gz"
    partial = folder.with_name("collection.partial")
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with refused(match=r"marco\.tar\.gz is damaged"):
        small(folder)
    assert not folder.exists()
    assert not partial.exists()
    write_sources(partial, {"stale.txt": "of a process that was killed"})
    archive.write_bytes(content)
    small(folder)
    assert not (folder / "stale.txt").exists()
    assert load(f"{folder}:train").document_count() == 4


def test_a_full_disk_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(titled, "write_queries", full)
    with refused(match="^The disk is full: .*collection"):
        small(folder)
    assert not folder.with_name("collection.partial").exists()


# The process builds once without the triples, which it cannot download, and once with them.
PROGRAM = """
import sys
from pathlib import Path
from retrobench.data.build.titled import Titled
from retrobench.errors import RetrobenchError
folder, triples, content = Path(sys.argv[1]), Path(sys.argv[2]), bytes.fromhex(sys.argv[3])
try:
    Titled(sample=True)(folder)
except RetrobenchError as error:
    print(error)
triples.write_bytes(content)
print(Titled(sample=True)(folder))
"""


def test_sources_that_are_not_beside_the_folder_come_from_ir_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "collection"
    write_sources(sources_of(folder) / "marco", ROCKETQA)
    home = tmp_path / "ir_datasets"
    write_sources(home / "msmarco-passage/train", {"qrels": OFFICIAL["qrels.train.tsv"]})
    dl19 = {"queries.tsv": OFFICIAL["msmarco-test2019-queries.tsv"], "qrels": OFFICIAL["2019qrels-pass.txt"]}
    dl20 = {"queries.tsv.gz": OFFICIAL["msmarco-test2020-queries.tsv"], "qrels": OFFICIAL["2020qrels-pass.txt"]}
    write_sources(home / "msmarco-passage/trec-dl-2019", dl19)
    write_sources(home / "msmarco-passage/trec-dl-2020", dl20)
    environment = {
        **os.environ,
        "IR_DATASETS_HOME": str(home),  # read once, when ir_datasets is imported
        "IR_DATASETS_DL_TRIES": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",  # refuses connections
        "https_proxy": "http://127.0.0.1:9",
    }
    triples = home / "msmarco-passage/train/qidpidtriples.train.full.2.tsv.gz"
    content = gzip.compress(OFFICIAL["qidpidtriples.train.full.2.tsv"].encode())
    command = [sys.executable, "-c", PROGRAM, str(folder), str(triples), content.hex()]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    refusal, summary = process.stdout.splitlines()
    assert "msmarcoranking/qidpidtriples.train.full.2.tsv.gz" in refusal
    assert "4 passages, 3 with a title" in summary
    assert "5 negatives" in summary
    assert load(f"{folder}:dl20").qrels() == {"20": {"3": 1}}
