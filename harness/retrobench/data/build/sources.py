"""
The source files of a collection: placed beside it by hand, or downloaded.

* Remote, download(remote, sources)   a file at any of several addresses, verified, its download resumed after a break
* download_parquet(...)               the parquet files of a dataset on the Hugging Face hub, verified
* complete_parquet(folder)            the parquet files in a folder, if none is missing
* unpack(archive, names, into)        the named members of a tar archive
* lines(file)                         a text's lines, gzipped or not

The sources of the collection FOLDER lie in FOLDER.sources. A file that exists there is used unchecked.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from retrobench.core import bar, file_hash, move, sync
from retrobench.errors import RetrobenchError

__all__ = ["Remote", "complete_parquet", "damaged", "download", "download_parquet", "lines", "unpack"]

CHUNK = 1 << 16  # bytes read at a time, and the most that a broken connection loses
KIB = 1 << 10
TIMEOUTS = (15, 60)  # seconds to connect, and between two chunks of a response

BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError)


@dataclass(frozen=True)
class Remote:
    """A file to download. Size in bytes and MD5 in hexadecimal are empty where nobody publishes them."""

    name: str
    urls: tuple[str, ...]
    size: int = 0
    md5: str = ""


def damaged(file: Path, error: Exception) -> RetrobenchError:
    """Return the error for a source that cannot be read to its end."""
    return RetrobenchError(f"{file} is damaged ({error}). Remove it and run the same command again.")


def download(remote: Remote, sources: Path) -> Path:
    """Return the file in `sources`, downloaded from the first address that serves it as published.

    An unfinished download is called NAME.part, and a later call resumes it. Raise RetrobenchError where every address
    fails, with the fault of each and the way by hand.
    """
    file = sources / remote.name
    if file.exists():
        return file
    sources.mkdir(parents=True, exist_ok=True)
    partial = sources / f"{remote.name}.part"
    faults = []
    for url in remote.urls:  # all serve equal bytes, so an address resumes the download of the address before it
        try:
            _append(url, partial, remote)
            _verify(partial, remote.size, remote.md5, "md5")
        except OSError as error:  # the base class of all errors of requests
            faults.append(f"{url}: {_reason(error)}")
            continue
        sync(partial)
        move(partial, file)
        return file
    raise RetrobenchError(
        f"Could not download {remote.name} ({'; '.join(faults)}). Run the same command again, which resumes the "
        f"download, or download the file by hand into {sources}."
    )


# No library, because these files are gigabytes: pooch 1.9 deletes the received bytes when a connection breaks off, and
# ir_datasets resumes only within one process.
def _append(url: str, partial: Path, remote: Remote) -> None:
    """Append the missing bytes to `partial`, or write all of them where the server cannot resume."""
    import requests

    received = 0
    if partial.exists():
        received = partial.stat().st_size
    if received and received == remote.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if received:
        headers["Range"] = f"bytes={received}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        if received and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            received = 0
        total = received + int(response.headers.get("Content-Length", 0))
        mode = "ab" if received else "wb"
        with partial.open(mode) as stream, bar(remote.name, total // KIB, "KiB", received // KIB) as advance:
            for chunk in response.iter_content(CHUNK):
                stream.write(chunk)
                advance(len(chunk) // KIB)


def _verify(file: Path, size: int, digest: str, algorithm: str) -> None:
    """Remove the file and raise OSError if its size or hash differs. Size 0 and hash "" are not checked."""
    fault = ""
    received = file.stat().st_size
    if size and received != size:
        fault = f"{received:,} bytes came, {size:,} are published"
    elif digest and (actual := file_hash(file, algorithm)) != digest:
        fault = f"its {algorithm} is {actual}, not {digest}"
    if fault:
        file.unlink()
        raise OSError(fault)


def _reason(error: OSError) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return "no connection"
    return str(error)


def download_parquet(repo: str, revision: str, path: str, into: Path) -> list[Path]:
    """
    Download the parquet files below `path` of a hub dataset into `into`, and return them in the order of their names.

    Files that exist in their published size are kept. A downloaded file is checked against the hub's SHA-256.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    try:
        remote_files = []
        for entry in api.list_repo_tree(repo, path, recursive=True, revision=revision, repo_type="dataset"):
            if isinstance(entry, RepoFile) and entry.path.endswith(".parquet"):
                remote_files.append(entry)
        for remote_file in remote_files:
            target = into / remote_file.path
            if target.exists() and target.stat().st_size == remote_file.size:
                continue
            api.hf_hub_download(repo, remote_file.path, repo_type="dataset", revision=revision, local_dir=into)
            sha256 = remote_file.lfs.sha256 if remote_file.lfs else ""
            _verify(target, remote_file.size, sha256, "sha256")
    # The hub's errors and those of its HTTP library have no common class, and the library changes between versions.
    except Exception as error:
        url = f"https://huggingface.co/datasets/{repo}/tree/{revision.replace('/', '%2F')}/{path}"
        raise RetrobenchError(
            f"Could not download {url} ({type(error).__name__}: {str(error)[:200]}). Run the same command again, or "
            f"download its parquet files by hand into {into}."
        ) from error
    return sorted(into / remote_file.path for remote_file in remote_files)


def complete_parquet(folder: Path) -> list[Path]:
    """Return the parquet files below a folder by name.

    The list is empty where the file names (`-00003-of-00041`) show that files are missing.
    """
    files = sorted(folder.rglob("*.parquet"))
    numbered = set()
    for file in files:
        match = re.search(r"-(\d{5})-of-(\d{5})", file.name)
        if match:
            numbered.add((match[1], match[2]))
    for _, total in numbered:
        if len(numbered) < int(total):
            return []
    return files


def unpack(archive: Path, names: Collection[str], into: Path) -> None:
    """Write the members with these names, whatever their folder in the archive, into the folder `into`."""
    into.mkdir(parents=True, exist_ok=True)
    missing = set(names)
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name = Path(member.name).name
                stream = tar.extractfile(member)
                if name in missing and stream is not None:
                    with (into / name).open("wb") as file:
                        shutil.copyfileobj(stream, file)
                    missing.remove(name)
    except BROKEN as error:
        raise damaged(archive, error) from None
    if missing:
        raise RetrobenchError(
            f"{archive} holds no {', '.join(sorted(missing))}. Remove it and run the same command again."
        )


def lines(file: Path) -> Iterator[bytes]:
    """Yield each line without its end, LF or CRLF. A file named `*.gz` is decompressed."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            for line in stream:
                yield line.rstrip(b"\r\n")
    except BROKEN as error:
        raise damaged(file, error) from None
