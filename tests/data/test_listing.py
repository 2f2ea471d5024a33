"""The list of datasets, their downloads, and datasets that need no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
from folders import write_folder

from retrobench.data import build as builders
from retrobench.data import catalogue, doctor, fetch_dataset, groups, list_datasets
from retrobench.errors import RetrobenchError


@pytest.fixture(autouse=True)
def local_collections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETROBENCH_DATA", str(tmp_path))


def listed() -> dict[str, dict[str, Any]]:
    """Return the rows of the list by dataset id."""
    rows = json.loads(list_datasets(as_json=True))
    return {row["id"]: row for row in rows}


def test_the_list_holds_groups_and_published_datasets() -> None:
    rows = listed()
    assert rows["beir"]["members"] == list(groups.GROUPS["beir"].members)
    assert rows["beir/fiqa/test"]["documents"] == 57638
    assert rows["beir/arguana"]["queries"] == 1406
    assert rows["beir/arguana"]["rule"]["drop_self"] is True
    assert rows["msmarco-passage/dev/small"]["queries"] == 6980
    assert rows["msmarco-passage/train/triples-v2"]["bytes"] > 2.8e9  # the pairs too


def test_the_list_holds_shipped_local_and_missing_collections(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/corpus.tsv").write_text("")
    (tmp_path / "odd/corpus.jsonl").write_text("")
    rows = listed()
    shipped = rows["retrobench/squad/test"]
    assert shipped["documents"] == 20958
    assert shipped["queries"] == 10570
    assert shipped["at_hand"] is True
    local = rows["mine:test"]
    assert local["kind"] == "local"
    assert local["documents"] == 3
    assert local["queries"] == 2
    assert "corpus.jsonl and corpus.tsv" in rows["odd"]["fault"]
    for name in builders.BUILDERS:
        assert rows[name]["kind"] == "to build"
        assert rows[name]["at_hand"] is False


def test_the_list_as_text_has_a_line_for_each(tmp_path: Path) -> None:
    write_folder(tmp_path / "wikibook")
    lines = list_datasets(as_json=False).splitlines()
    names = [line.split()[0] for line in lines[1:-2]]
    assert names == list(listed())
    assert "wikibook:test" in names
    assert "wikibook" not in names
    assert str(tmp_path) in lines[-1]


def test_fetching_calls_a_builder_with_the_folder_to_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "BUILDERS", {"small": write_folder})
    assert fetch_dataset("small") == str(tmp_path / "small")
    assert doctor.check("small:test").exit_code == 0


def test_shipped_and_local_datasets_need_no_fetching(tmp_path: Path) -> None:
    assert "nothing to fetch" in fetch_dataset("retrobench/squad/test")
    local = fetch_dataset(write_folder(tmp_path))
    assert f"{tmp_path}, nothing to fetch" in local
    with pytest.raises(RetrobenchError, match="'no-such-thing'"):
        fetch_dataset("no-such-thing")


def test_downloads_have_an_address_a_path_and_a_size() -> None:
    (file,) = catalogue.files("beir/scifact/test")
    assert file.url.endswith("/BEIR/datasets/scifact.zip")
    assert file.path == catalogue.home() / "beir/scifact/source.zip"
    assert file.bytes == 2816079
    assert catalogue.home() == ir_datasets.util.home_path()


def test_shared_downloads_are_named_once_and_shipped_ones_never() -> None:
    archives: set[str] = set()
    for forum in groups.expand("beir/cqadupstack"):
        for file in catalogue.files(forum):
            archives.add(file.url)
    assert len(archives) == 1
    small = {file.path.name for file in catalogue.files("msmarco-passage/dev/small")}
    assert small == {"collectionandqueries.tar.gz"}
    assert catalogue.files("retrobench/squad/test") == ()
