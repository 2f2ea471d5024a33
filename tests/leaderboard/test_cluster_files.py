"""Clusters lie beside the rows, so that pages are rendered without the datasets."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path

import pytest
from leaderboard_rows import BERT, DATASET, MLM, facts, mean, row

from retrobench.data import open_collections, query_clusters, register
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.comparison import compare
from retrobench.leaderboard.pages import main
from retrobench.leaderboard.rows import (
    Clusters,
    append,
    per_query_loader,
    read,
    read_clusters,
    write_clusters,
    write_missing_clusters,
)
from retrobench.leaderboard.tables import show_track

MINI = Path(__file__).parents[2] / "leaderboards" / "mini"


def test_clusters_of_a_collection_are_written_in_repeatable_bytes(tmp_path: Path) -> None:
    register()
    collection = open_collections([DATASET])[DATASET]
    file = write_clusters(tmp_path, collection)
    assert file == tmp_path / "clusters" / f"{collection.qrels_hash[:16]}.json.gz"
    assert file.read_bytes() == (MINI / "clusters" / file.name).read_bytes()
    rows = [row(facts={}), row(facts={DATASET: facts(qrels=collection.qrels_hash)})]
    assert read_clusters(tmp_path, rows, DATASET) == Clusters("title", query_clusters(collection.dataset))
    assert read_clusters(tmp_path, rows, "another") is None
    assert read_clusters(tmp_path, rows[:1], DATASET) is None
    assert read_clusters(tmp_path / "none", rows, DATASET) is None


def write(folder: Path, content: bytes) -> None:
    (folder / "clusters").mkdir()
    (folder / "clusters" / f"{'d' * 16}.json.gz").write_bytes(content)


def test_a_damaged_file_is_named_with_the_command_that_remakes_it(tmp_path: Path) -> None:
    write(tmp_path, b"{}")
    with pytest.raises(RetrobenchError, match=r"clusters/d{16}\.json\.gz, clusters of .*leaderboard --clusters "):
        read_clusters(tmp_path, [row(facts={DATASET: facts()})], DATASET)


def test_the_clusters_of_a_folder_are_used_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    for entrant, values in (("bert", BERT), ("mlm", MLM)):
        for seed in range(3):
            append(folder, row(entrant, seed, [mean(values)], facts={DATASET: facts()}), {DATASET: {"MRR@10": values}})
    numbers = {query: number // 3 for number, query in enumerate(BERT)}
    write(folder, gzip.compress(json.dumps({"by": "title", "numbers": numbers}).encode()))
    rows = read(folder)
    (table,) = compare(rows, per_query_loader(folder, rows), partial(read_clusters, folder))
    assert (table.test.clusters, table.clustered_by) == (10, "title")
    text = show_track("mini", tmp_path)
    assert "form 10 clusters" in text
    assert "sign-flip test" in text


def test_other_judgements_than_those_measured_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(tmp_path, row(facts={DATASET: facts()}), {})
    with pytest.raises(RetrobenchError, match=r"other judgements than the rows in .*: 9cde5bb815ee921b, .* d{16}\."):
        write_missing_clusters(tmp_path)
    assert main(["--clusters", str(tmp_path)]) == 2
    assert not (tmp_path / "clusters").exists()
