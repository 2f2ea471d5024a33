"""Downloads from a server on this machine: broken off, wrong, continued, and a small hub of Hugging Face's kind."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrobench.data.build import sources, wikibook
from retrobench.data.build.sources import Remote
from retrobench.errors import RetrobenchError

refused = functools.partial(pytest.raises, RetrobenchError)

CONTENT = bytes(range(256)) * 1000  # 256,000 bytes
PIECE = 65_536  # what is read at a time
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """What is served, and what was asked for: path and first byte."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # after so many bytes the connection is broken off, once
    ranges: bool = True
    asked: list[tuple[str, int]] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """A request handler that answers from here."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                path = self.path.split("?")[0]
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                first = int(wanted[1]) if wanted and server.ranges else 0
                if body:
                    server.asked.append((path, first))
                content = server.files.get(path)
                if content is None:
                    return self.send_error(404)
                if first >= len(content) > 0:
                    return self.send_error(416)
                self.send_response(206 if first else 200)
                self.send_header("Content-Length", str(len(content) - first))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "c" * 40)
                self.end_headers()
                if body:
                    stop = server.cut.pop(path, len(content))
                    self.wfile.write(content[first:stop])

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), served.handler()) as http:
        served.url = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, args=[0.01])
        thread.start()
        yield served
        http.shutdown()
        thread.join()


def test_a_download_is_verified_and_not_repeated(server: Server, tmp_path: Path) -> None:
    server.files["/data.gz"] = CONTENT
    remote = Remote("data.gz", (f"{server.url}/data.gz",), len(CONTENT), MD5)
    file = sources.download(remote, tmp_path / "c.sources")
    assert file.read_bytes() == CONTENT
    assert sources.download(remote, tmp_path / "c.sources") == file
    assert server.asked == [("/data.gz", 0)]
    assert [path.name for path in file.parent.iterdir()] == ["data.gz"]


@pytest.mark.parametrize(("ranges", "second"), [(True, 3 * PIECE), (False, 0)])
def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path, ranges: bool, second: int) -> None:
    server.files["/data.gz"], server.cut["/data.gz"], server.ranges = CONTENT, 200_000, ranges
    remote = Remote("data.gz", (f"{server.url}/data.gz",), md5=MD5)
    told = rf"Could not download data\.gz \({server.url}/data\.gz: the connection broke off\)\. Run the same command"
    with refused(match=told):
        sources.download(remote, tmp_path)
    assert not (tmp_path / "data.gz").exists()
    assert (tmp_path / "data.gz.part").read_bytes() == CONTENT[: 3 * PIECE]
    assert sources.download(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/data.gz", 0), ("/data.gz", second)]


def test_the_next_address_goes_on_where_the_first_broke_off(server: Server, tmp_path: Path) -> None:
    server.files |= {"/a": CONTENT, "/b": CONTENT}
    server.cut["/a"] = 70_000
    remote = Remote("data", tuple(f"{server.url}/{name}" for name in ("gone", "a", "b")), md5=MD5)
    assert sources.download(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/gone", 0), ("/a", 0), ("/b", PIECE)]


def test_a_wrong_file_is_removed_and_the_next_address_asked(server: Server, tmp_path: Path) -> None:
    server.files |= {"/bad": CONTENT[::-1], "/good": CONTENT}
    remote = Remote("data", (f"{server.url}/bad", f"{server.url}/good"), len(CONTENT), MD5)
    assert sources.download(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/bad", 0), ("/good", 0)]


def test_a_file_to_be_had_nowhere_is_told_with_every_address_and_the_way_by_hand(
    server: Server, tmp_path: Path
) -> None:
    server.files |= {"/short": CONTENT[:-1], "/bad": CONTENT[::-1]}
    names = ("short", "bad", "gone")
    remote = Remote("data", (*(f"{server.url}/{name}" for name in names), "http://127.0.0.1:9/"), len(CONTENT), MD5)
    with refused() as caught:
        sources.download(remote, tmp_path)
    reversed_md5 = hashlib.md5(CONTENT[::-1]).hexdigest()
    assert str(caught.value) == (
        f"Could not download data ({server.url}/short: 255,999 bytes came, 256,000 are published; "
        f"{server.url}/bad: its md5 is {reversed_md5}, not {MD5}; {server.url}/gone: HTTP 404; "
        "http://127.0.0.1:9/: no connection). Run the same command again, which resumes the download, "
        f"or download the file by hand into {tmp_path}."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_whole_part_without_a_published_size_is_only_verified(server: Server, tmp_path: Path) -> None:
    server.files["/data"] = CONTENT
    (tmp_path / "data.part").write_bytes(CONTENT)  # the process died before the renaming
    assert sources.download(Remote("data", (f"{server.url}/data",), md5=MD5), tmp_path).read_bytes() == CONTENT


REPO, REVISION, BELOW = wikibook.WIKIPEDIA
NAMES = tuple(f"{BELOW}/train-{number:05}-of-00002.parquet" for number in range(2))


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A hub with two articles of Wikipedia in two files."""
    tree = []
    for number, name in enumerate(NAMES):
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([{"id": str(number), "text": f"Article {number}."}]), file)
        content = file.getvalue()
        server.files[f"/datasets/{REPO}/resolve/{REVISION}/{name}"] = content
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
        tree.append({"type": "file", "path": name, "size": len(content), "oid": "0" * 40, "lfs": lfs})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    tree.append({"type": "file", "path": f"{BELOW}/README.md", "size": 1, "oid": "0" * 40})
    server.files[f"/api/datasets/{REPO}/tree/{REVISION}/{BELOW}"] = json.dumps(tree).encode()
    monkeypatch.setattr(
        huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=server.url, token=False)
    )
    return server


def test_parquet_files_come_from_the_hub_once(hub: Server, tmp_path: Path) -> None:
    files = sources.download_parquet(REPO, REVISION, BELOW, tmp_path)
    assert files == [tmp_path / name for name in NAMES]
    assert [pq.read_table(file).to_pylist()[0]["id"] for file in files] == ["0", "1"]
    before = len(hub.asked)
    assert sources.complete_parquet(tmp_path) == sources.download_parquet(REPO, REVISION, BELOW, tmp_path) == files
    assert [path for path, _ in hub.asked[before:]] == [f"/api/datasets/{REPO}/tree/{REVISION}/{BELOW}"]
    files[1].unlink()
    assert sources.complete_parquet(tmp_path) == []  # of two that the names speak of


def test_a_parquet_file_unlike_the_hubs_hash_is_refused(hub: Server, tmp_path: Path) -> None:
    place = f"/datasets/{REPO}/resolve/{REVISION}/{NAMES[1]}"
    hub.files[place] = hub.files[place][::-1]
    with refused(match=r"datasets/wikimedia/wikipedia/tree/.*its sha256 is .*, not .* by hand into"):
        sources.download_parquet(REPO, REVISION, BELOW, tmp_path)
    assert not (tmp_path / NAMES[1]).exists()


def test_a_missing_dataset_is_told_with_its_page(hub: Server, tmp_path: Path) -> None:
    with refused(match=r"huggingface\.co/datasets/no/such/tree/refs%2Fconvert%2Fparquet/train \(\w+: .*404"):
        sources.download_parquet("no/such", "refs/convert/parquet", "train", tmp_path)


def test_wikibook_asks_the_hub_for_what_is_incomplete_and_counts(hub: Server, tmp_path: Path) -> None:
    with refused(match=r"^2 articles were found where 6,407,814 are published"):
        wikibook.Wikibook()(tmp_path / "wikibook")
    assert len(sources.complete_parquet(tmp_path / "wikibook.sources/wikipedia")) == 2
    assert not (tmp_path / "wikibook").exists()


def test_an_archive_without_a_member_is_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("marco/../../escape.txt"))
        tar.addfile(tarfile.TarInfo("marco/there.txt"))
    with refused(match=r"a\.tar\.gz holds no gone\.txt\. Remove it and run the same command again\."):
        sources.unpack(tmp_path / "a.tar.gz", ["there.txt", "gone.txt"], tmp_path / "into")
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["there.txt"]


def test_a_damaged_gzip_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    with refused(match=r"a\.gz is damaged \(.*\)\. Remove it"):
        list(sources.lines(tmp_path / "a.gz"))
