"""Downloads from a server on this machine: interrupted, wrong, resumed, and a small Hugging Face hub."""

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
CHUNK = 65_536  # bytes read at a time
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """The files of a server, and a log of the requests."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)  # path -> byte at which the connection breaks, once
    ranges: bool = True  # whether the server can resume
    requests: list[tuple[str, int]] = field(default_factory=list)  # path and first byte

    def urls(self, *names: str) -> tuple[str, ...]:
        """Return the addresses of files."""
        return tuple(f"{self.url}/{name}" for name in names)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Return a request handler that serves these files."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.respond(body=False)

            def do_GET(self) -> None:
                self.respond(body=True)

            def respond(self, body: bool) -> None:
                path = self.path.split("?")[0]
                byte_range = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                first = 0
                if byte_range and server.ranges:
                    first = int(byte_range[1])
                if body:
                    server.requests.append((path, first))
                content = server.files.get(path)
                if content is None:
                    return self.send_error(404)
                if first >= len(content) > 0:
                    return self.send_error(416)
                if first:
                    self.send_response(206)
                else:
                    self.send_response(200)
                sha256 = hashlib.sha256(content).hexdigest()
                self.send_header("Content-Length", str(len(content) - first))
                self.send_header("ETag", f'"{sha256}"')
                self.send_header("X-Repo-Commit", "c" * 40)
                self.end_headers()
                if body:
                    stop = server.breaks.pop(path, len(content))
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
    remote = Remote("data.gz", server.urls("data.gz"), len(CONTENT), MD5)
    file = sources.download(remote, tmp_path / "c.sources")
    assert file.read_bytes() == CONTENT
    assert sources.download(remote, tmp_path / "c.sources") == file
    assert server.requests == [("/data.gz", 0)]
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(("ranges", "second"), [(True, 3 * CHUNK), (False, 0)])
def test_a_broken_download_is_resumed(server: Server, tmp_path: Path, ranges: bool, second: int) -> None:
    server.files["/data.gz"] = CONTENT
    server.breaks["/data.gz"] = 200_000
    server.ranges = ranges
    remote = Remote("data.gz", server.urls("data.gz"), md5=MD5)
    with refused(match=rf"data\.gz \({server.url}/data\.gz: the connection broke off"):
        sources.download(remote, tmp_path)
    assert not (tmp_path / "data.gz").exists()
    partial = tmp_path / "data.gz.part"
    assert partial.read_bytes() == CONTENT[: 3 * CHUNK]
    assert sources.download(remote, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/data.gz", 0), ("/data.gz", second)]


def test_the_next_address_resumes_a_broken_download(server: Server, tmp_path: Path) -> None:
    server.files |= {"/a": CONTENT, "/b": CONTENT}
    server.breaks["/a"] = 70_000
    remote = Remote("data", server.urls("gone", "a", "b"), md5=MD5)
    assert sources.download(remote, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/gone", 0), ("/a", 0), ("/b", CHUNK)]


def test_a_wrong_file_is_removed_and_the_next_address_used(server: Server, tmp_path: Path) -> None:
    server.files |= {"/bad": CONTENT[::-1], "/good": CONTENT}
    remote = Remote("data", server.urls("bad", "good"), len(CONTENT), MD5)
    assert sources.download(remote, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/bad", 0), ("/good", 0)]


def test_a_failed_download_names_every_address_with_its_fault(server: Server, tmp_path: Path) -> None:
    server.files |= {"/short": CONTENT[:-1], "/bad": CONTENT[::-1]}
    bad_md5 = hashlib.md5(CONTENT[::-1]).hexdigest()
    short, bad, gone = server.urls("short", "bad", "gone")
    unreachable = "http://127.0.0.1:9/"
    remote = Remote("data", (short, bad, gone, unreachable), len(CONTENT), MD5)
    with refused() as raised:
        sources.download(remote, tmp_path)
    message = str(raised.value)
    assert f"{short}: 255,999 bytes came, 256,000 are published" in message
    assert f"{bad}: its md5 is {bad_md5}, not {MD5}" in message
    assert f"{gone}: HTTP 404" in message
    assert f"{unreachable}: no connection" in message
    assert f"by hand into {tmp_path}." in message
    assert list(tmp_path.iterdir()) == []


def test_a_whole_download_without_a_published_size_is_only_verified(server: Server, tmp_path: Path) -> None:
    server.files["/data"] = CONTENT
    (tmp_path / "data.part").write_bytes(CONTENT)  # the process died before the renaming
    remote = Remote("data", server.urls("data"), md5=MD5)
    assert sources.download(remote, tmp_path).read_bytes() == CONTENT


REPO, REVISION, FOLDER = wikibook.WIKIPEDIA
NAMES = (f"{FOLDER}/train-00000-of-00002.parquet", f"{FOLDER}/train-00001-of-00002.parquet")
RESOLVED = f"/datasets/{REPO}/resolve/{REVISION}"
PAGE = f"/api/datasets/{REPO}/tree/{REVISION}/{FOLDER}"


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return a hub with two articles of Wikipedia in two files."""
    tree: list[dict[str, object]] = [{"type": "file", "path": f"{FOLDER}/README.md", "size": 1, "oid": "0" * 40}]
    for number, name in enumerate(NAMES):
        article = {"id": str(number), "text": f"Article {number}."}
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([article]), file)
        content = file.getvalue()
        server.files[f"{RESOLVED}/{name}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        lfs = {"oid": sha256, "size": len(content), "pointerSize": 1}
        tree.append({"type": "file", "path": name, "size": len(content), "oid": "0" * 40, "lfs": lfs})
    server.files[PAGE] = json.dumps(tree).encode()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    local_api = functools.partial(huggingface_hub.HfApi, endpoint=server.url, token=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", local_api)
    return server


def test_parquet_files_come_from_the_hub_once(hub: Server, tmp_path: Path) -> None:
    files = sources.download_parquet(REPO, REVISION, FOLDER, tmp_path)
    assert files == [tmp_path / name for name in NAMES]
    for number, file in enumerate(files):
        table = pq.read_table(file)
        assert table["id"].to_pylist() == [str(number)]
    hub.requests.clear()
    assert sources.download_parquet(REPO, REVISION, FOLDER, tmp_path) == files
    assert hub.requests == [(PAGE, 0)]


def test_parquet_files_are_complete_only_if_none_is_missing(hub: Server, tmp_path: Path) -> None:
    files = sources.download_parquet(REPO, REVISION, FOLDER, tmp_path)
    assert sources.complete_parquet(tmp_path) == files
    files[1].unlink()
    assert sources.complete_parquet(tmp_path) == []


def test_a_parquet_file_unlike_the_hubs_hash_is_refused(hub: Server, tmp_path: Path) -> None:
    path = f"{RESOLVED}/{NAMES[1]}"
    hub.files[path] = hub.files[path][::-1]
    with refused(match=r"datasets/wikimedia/wikipedia/tree/.*its sha256 is .*, not .* by hand into"):
        sources.download_parquet(REPO, REVISION, FOLDER, tmp_path)
    assert not (tmp_path / NAMES[1]).exists()


def test_the_page_of_a_missing_dataset_is_named(hub: Server, tmp_path: Path) -> None:
    with refused(match=r"huggingface\.co/datasets/no/such/tree/refs%2Fconvert%2Fparquet/train \(\w+: .*404"):
        sources.download_parquet("no/such", "refs/convert/parquet", "train", tmp_path)


def test_wikibook_downloads_missing_files_and_compares_counts(hub: Server, tmp_path: Path) -> None:
    with refused(match=r"^2 articles .* 6,407,814 are published"):
        wikibook.Wikibook()(tmp_path / "wikibook")
    assert len(sources.complete_parquet(tmp_path / "wikibook.sources/wikipedia")) == 2
    assert not (tmp_path / "wikibook").exists()


def test_a_missing_member_of_an_archive_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("marco/../../escape.txt", "marco/there.txt"):
            tar.addfile(tarfile.TarInfo(name))
    folder = tmp_path / "into"
    with refused(match=r"a\.tar\.gz holds no gone\.txt\."):
        sources.unpack(archive, ["there.txt", "gone.txt"], folder)
    assert list(folder.iterdir()) == [folder / "there.txt"]


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(b"no gzip")
    with refused(match=r"a\.gz is damaged"):
        list(sources.lines(file))
