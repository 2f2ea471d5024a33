"""What is read of ir_datasets' downloads before they are made, and what is done where it no longer says."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
from ir_datasets.datasets.base import Dataset
from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
from ir_datasets.util import Download, download

from retrobench.data import catalogue, load
from retrobench.errors import RetrobenchError

NAME = "tests/downloaded"
CONTENTS = {"docs": "d1\twhales\nd2\tships\n", "queries": "q1\twhat is a whale\n", "qrels": "q1 0 d1 1\n"}


class Mirror:
    """A site with a file, or without one."""

    def __init__(self, name: str, content: str | None) -> None:
        self.url, self.content = f"https://example.org/{name}", content

    @contextmanager
    def stream(self) -> Iterator[io.BytesIO]:
        if self.content is None:
            raise OSError("no route to host")
        yield io.BytesIO(self.content.encode())


def renamed() -> type:
    """ir_datasets' `Download` as an upgrade could have it, its private attributes under other names."""
    source = inspect.getsource(Download).replace("class Download:", "class Renamed(Download):")
    source = source.replace("_cache_path", "_target").replace("_size_hint", "_bytes")
    names: dict[str, Any] = {}
    exec(source, {**vars(download)}, names)
    return names["Renamed"]  # type: ignore[no-any-return]


@pytest.fixture(params=["pinned", "renamed"])
def kind(request: pytest.FixtureRequest) -> type:
    return Download if request.param == "pinned" else renamed()


def registered(kind: type, folder: Path, patch: pytest.MonkeyPatch, **contents: str | None) -> None:
    """Have ir_datasets know a dataset whose three files are downloads of this kind."""
    patch.setenv("IR_DATASETS_HOME", str(folder))
    patch.delitem(ir_datasets.registry._registered, NAME, raising=False)
    files = {name: kind([Mirror(name, content)], folder / name, size_hint=20) for name, content in contents.items()}
    docs, queries = TsvDocs(files["docs"], namespace=NAME), TsvQueries(files["queries"])
    ir_datasets.registry.register(NAME, Dataset(docs, queries, TrecQrels(files["qrels"], {})))


def test_a_dataset_is_downloaded_whether_or_not_ir_datasets_says_where_to(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(kind, tmp_path, monkeypatch, **CONTENTS)
    dataset = load(NAME)
    assert [document.text for document in dataset.documents()] == ["whales", "ships"]
    assert [query.text for query in dataset.queries()] == ["what is a whale"]
    assert dataset.qrels() == {"q1": {"d1": 1}}
    assert {path.name for path in tmp_path.iterdir()} >= set(CONTENTS)


def test_the_pinned_ir_datasets_says_where_its_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where an upgrade drops `_cache_path` or `_size_hint`: `data list` and `plan` then know no download."""
    registered(Download, tmp_path, monkeypatch, **CONTENTS)
    before = catalogue.files(NAME)
    assert [(file.path, file.bytes, file.at_hand) for file in before] == [
        (tmp_path / name, 20, False) for name in CONTENTS
    ]
    list(load(NAME).documents())
    assert [file.at_hand for file in catalogue.files(NAME)] == [True, False, False]


def test_an_ir_datasets_that_does_not_say_so_names_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(renamed(), tmp_path, monkeypatch, **CONTENTS)
    assert catalogue.files(NAME) == ()


def test_a_download_that_fails_is_one_line(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(kind, tmp_path, monkeypatch, **{**CONTENTS, "docs": None})
    with pytest.raises(RetrobenchError, match=r"no route to host") as raised:
        list(load(NAME).documents())
    named = "https://example.org/docs" if kind is Download else f"a file under {tmp_path}"
    assert f"Dataset '{NAME}' needs {named}, which is not here" in str(raised.value)
