"""`msmarco-sbert`, built from small sources in the published layouts."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import sources_of, write_archive, write_sources

from retrobench.data.build import sbert
from retrobench.data.datasets import Document, Query, load
from retrobench.errors import RetrobenchError

refused = functools.partial(pytest.raises, RetrobenchError)

MINED = {"bm25": [1, 2, 3, 4, 5, 6, 7], "msmarco-MiniLM-L-6-v3": [2, 8, 100], "no-system-of-the-recipe": [9]}
# The lowest positive, 101, has 4.5. At margin 3 scores above 1.5 are dropped: passages 1, 3 and 8. Passage 7 has none.
SCORES = {100: 9.0, 101: 4.5, 1: 1.75, 2: 1.5, 3: 8.0, 4: -2.0, 5: 0.0, 6: -9.0, 8: 2.0, 9: -5.0}
OTHER_QUERY_SCORES = {100: 0.0, 2: 0.0}  # of query 4; they must not be taken for query 5's

WITHOUT_SCORES: dict[str, Any] = {"qid": 5, "pos": [100, 101], "neg": MINED}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder to build, with all its sources in place except the negatives."""
    folder = tmp_path / "collection"
    sources = sources_of(folder)
    write_sources(sources, {"qrels.train.tsv": "5\t0\t100\t1\n5\t0\t101\t1\n"})
    write_archive(sources / "queries.tar.gz", {"queries.train.tsv": "4\tunjudged\n5\tasked\n", "queries.dev.tsv": ""})
    collection = "1\tThe caf\u00c3\u00a9 is open.\n2\tSecond.\n"  # encoded twice, as published
    write_archive(sources / "collectionandqueries.tar.gz", {"collection.tsv": collection})
    return folder


def write_mined(folder: Path, mined: Mapping[str, Any], name: str = sbert.NEGATIVES.name) -> None:
    write_sources(sources_of(folder), {name: json.dumps(mined) + "\n"})


def with_scores() -> dict[str, Any]:
    """Return the negatives with their scores."""
    systems: dict[str, list[dict[str, float]]] = {}
    for name, passages in MINED.items():
        systems[name] = []
        for passage in passages:
            systems[name].append({"pid": passage, "ce-score": SCORES.get(passage, 5.0)})
    positives = [{"pid": 100, "ce-score": 9.0}, {"pid": 101, "ce-score": 4.5}]
    return {"qid": 5, "pos": positives, "neg": systems}


def negatives(folder: Path) -> list[int]:
    dataset = load(f"{folder}:train")
    return [int(passage) for _, passage in dataset.negatives()]


def test_the_collection_has_no_titles_and_the_judged_queries(folder: Path) -> None:
    write_mined(folder, with_scores())
    summary = sbert.Sbert(sample=True)(folder)
    assert "2 passages without titles; 1 train queries" in summary
    train = load(f"{folder}:train")
    assert list(train.documents()) == [Document("1", "", "The caf\u00e9 is open."), Document("2", "", "Second.")]
    assert list(train.queries()) == [Query("5", "asked")]
    assert train.qrels() == {"5": {"100": 1, "101": 1}}


def test_negatives_score_a_margin_below_the_lowest_positive(folder: Path) -> None:
    write_mined(folder, with_scores())
    summary = sbert.Sbert(sample=True)(folder)
    assert "4 negatives, cross-encoder margin 3, at most 5 from each of 4 systems" in summary
    train = load(f"{folder}:train")
    assert list(train.negatives()) == [("5", "2"), ("5", "4"), ("5", "5"), ("5", "6")]
    assert train.title.endswith("cross-encoder margin 3")


def test_a_system_gives_a_number_of_new_negatives(folder: Path) -> None:
    write_mined(folder, with_scores())
    sbert.Sbert(per_system=2, margin=2.0, sample=True)(folder)
    # bm25 gives 1 and 2. MiniLM's 2 is a repetition and 100 a positive, so it gives 8.
    assert negatives(folder) == [1, 2, 8]


def test_unfiltered_negatives_leave_out_the_positives_alone(folder: Path) -> None:
    write_mined(folder, WITHOUT_SCORES)
    summary = sbert.Sbert(margin=None, sample=True)(folder)
    assert "6 negatives, unfiltered" in summary
    assert negatives(folder) == [1, 2, 3, 4, 5, 8]
    assert load(f"{folder}:train").title.endswith("unfiltered")


@pytest.mark.parametrize("name", [sbert.NEGATIVES.name, sbert.HUB_NEGATIVES.name])
def test_scores_of_bare_ids_come_from_scores_tsv(folder: Path, name: str) -> None:
    write_mined(folder, WITHOUT_SCORES, name)
    table = "query-id\tcorpus-id\tscore\n"
    for query, scores in ((4, OTHER_QUERY_SCORES), (5, SCORES)):
        for passage, score in scores.items():
            table += f"{query}\t{passage}\t{score}\n"
    write_sources(sources_of(folder), {"scores.tsv": table})
    sbert.Sbert(sample=True)(folder)
    assert negatives(folder) == [2, 4, 5, 6]


@pytest.mark.parametrize("name", [sbert.NEGATIVES.name, sbert.HUB_NEGATIVES.name])
@pytest.mark.parametrize("id_type", [int, str])
def test_scores_of_bare_ids_come_from_parquet_files(folder: Path, id_type: Any, name: str) -> None:
    write_mined(folder, WITHOUT_SCORES, name)
    columns = {
        "query_id": [id_type(4), id_type(5)],
        "corpus_id": [list(map(id_type, OTHER_QUERY_SCORES)), list(map(id_type, SCORES))],
        "score": [list(OTHER_QUERY_SCORES.values()), list(SCORES.values())],
    }
    parquet = sources_of(folder) / "scores/list"
    parquet.mkdir(parents=True)
    pq.write_table(pa.table(columns), parquet / "train-00000-of-00001.parquet")
    sbert.Sbert(sample=True)(folder)
    assert negatives(folder) == [2, 4, 5, 6]


@pytest.mark.parametrize(
    ("mined", "message"),
    [
        ({"qid": 5, "pos": []}, r"gz, line 1: .* \(KeyError: 'neg'\)"),
        ({**WITHOUT_SCORES, "neg": {"another": [1]}}, "gz names no negatives of bm25, .*"),
    ],
)
def test_a_file_of_another_format_is_refused(folder: Path, mined: dict[str, Any], message: str) -> None:
    write_mined(folder, mined)
    with refused(match=message):
        sbert.Sbert(margin=None, sample=True)(folder)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("5\t1\t0.5\n4\t1\t0.5\n5\t2\t0.5\n", r"scores of query 5 do not stand together; sort .*scores\.tsv"),
        ("5\t1\tgood\n", r"scores\.tsv, query 5: "),
        ("query-id\tcorpus-id\tscore\n", r"No scores in .*scores\.tsv"),
    ],
)
def test_faulty_scores_are_refused(folder: Path, scores: str, message: str) -> None:
    write_mined(folder, WITHOUT_SCORES)
    write_sources(sources_of(folder), {"scores.tsv": scores})
    with refused(match=message):
        sbert.Sbert(sample=True)(folder)
