"""Downloads of ir_datasets: their paths and sizes, and datasets whose downloads it keeps to itself."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
from ir_datasets.datasets.base import Dataset
from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
from ir_datasets.util import Download, download

from retrobench.data import catalogue, load
from retrobench.data.datasets import Document, Query
from retrobench.errors import RetrobenchError

NAME = "tests/downloaded"
CONTENTS = {"docs": "d1\twhales\nd2\tships\n", "queries": "q1\twhat is a whale\n", "qrels": "q1 0 d1 1\n"}


class Mirror:
    """A site with a file, or without one."""

    def __init__(self, name: str, content: str | None) -> None:
        self.url = f"https://example.org/{name}"
        self.content = content

    @contextmanager
    def stream(self) -> Iterator[io.BytesIO]:
        if self.content is None:
            raise OSError("no route to host")
        yield io.BytesIO(self.content.encode())


def renamed() -> type:
    """Return ir_datasets' `Download` with other names for its private attributes, as an upgrade could bring."""
    source = inspect.getsource(Download).replace("class Download:", "class Renamed(Download):")
    source = source.replace("_cache_path", "_target").replace("_size_hint", "_bytes")
    names: dict[str, Any] = {}
    exec(source, {**vars(download)}, names)
    return names["Renamed"]  # type: ignore[no-any-return]


@pytest.fixture(params=["pinned", "renamed"])
def kind(request: pytest.FixtureRequest) -> type:
    kind: type = Download
    if request.param == "renamed":
        kind = renamed()
    return kind


def register(kind: type, folder: Path, patch: pytest.MonkeyPatch, contents: Mapping[str, str | None]) -> None:
    """Register with ir_datasets a dataset whose three files are downloads of this kind."""
    patch.setenv("IR_DATASETS_HOME", str(folder))
    patch.delitem(ir_datasets.registry._registered, NAME, raising=False)
    files = {}
    for name, content in contents.items():
        files[name] = kind([Mirror(name, content)], folder / name, size_hint=20)
    docs = TsvDocs(files["docs"], namespace=NAME)
    queries = TsvQueries(files["queries"])
    qrels = TrecQrels(files["qrels"], {})
    ir_datasets.registry.register(NAME, Dataset(docs, queries, qrels))


def test_a_dataset_is_downloaded_even_if_its_paths_are_unknown(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(kind, tmp_path, monkeypatch, CONTENTS)
    dataset = load(NAME)
    assert list(dataset.documents()) == [Document("d1", "", "whales"), Document("d2", "", "ships")]
    assert list(dataset.queries()) == [Query("q1", "what is a whale")]
    assert dataset.qrels() == {"q1": {"d1": 1}}
    for name in CONTENTS:
        assert (tmp_path / name).exists()


def test_the_pinned_ir_datasets_says_where_its_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where an upgrade drops `_cache_path` or `_size_hint`: `data list` and `plan` then know no download."""
    register(Download, tmp_path, monkeypatch, CONTENTS)
    files = catalogue.files(NAME)
    for file, name in zip(files, CONTENTS, strict=True):
        assert file.path == tmp_path / name
        assert file.bytes == 20
        assert not file.at_hand
    documents = list(load(NAME).documents())
    assert len(documents) == 2
    docs, queries, qrels = catalogue.files(NAME)
    assert docs.at_hand
    assert not queries.at_hand
    assert not qrels.at_hand


def test_downloads_with_unknown_paths_are_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(renamed(), tmp_path, monkeypatch, CONTENTS)
    assert catalogue.files(NAME) == ()


def test_a_download_that_fails_is_one_line(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(kind, tmp_path, monkeypatch, {**CONTENTS, "docs": None})
    with pytest.raises(RetrobenchError, match=r"no route to host") as raised:
        list(load(NAME).documents())
    file = f"a file under {tmp_path}"
    if kind is Download:
        file = "https://example.org/docs"
    assert f"'{NAME}' needs {file}" in str(raised.value)
