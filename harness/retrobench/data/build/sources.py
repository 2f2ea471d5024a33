"""
What a collection is made from: files put beside it by hand, else downloaded to there.

* Remote, fetch(remote, sources)   a file at one of several addresses, verified; an interrupted download is resumed
* fetch_parquet(...)               the parquet files under a folder of a dataset on the Hugging Face hub, verified
* at_hand(folder)                  parquet files that are there already
* unpack(archive, names, into)     the named members of a tar archive
* lines(file)                      a text's lines, gzipped or not

The sources of the collection FOLDER lie in FOLDER.sources. A file that is there already is taken as it is.
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

__all__ = ["Remote", "at_hand", "damaged", "fetch", "fetch_parquet", "lines", "unpack"]

CHUNK = 1 << 16  # bytes read at a time: as many are lost at most where a connection breaks off
KIB = 1 << 10
SECONDS = (15, 60)  # to connect, and between two pieces of an answer

BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError)


@dataclass(frozen=True)
class Remote:
    """A file to download. Size in bytes and MD5 (hexadecimal) are empty where nobody publishes them."""

    name: str
    urls: tuple[str, ...]
    size: int = 0
    md5: str = ""


def damaged(file: Path, error: Exception) -> RetrobenchError:
    """The error for a source that cannot be read to its end."""
    return RetrobenchError(f"{file} is damaged ({error}). Remove it and run the same command again.")


def fetch(remote: Remote, sources: Path) -> Path:
    """Return the file of that name in `sources`, downloaded from the first address that serves it as published.

    Until it is whole and verified it is called NAME.part, and a later call resumes the download. RetrobenchError names
    every address with its fault, and the way by hand.
    """
    file = sources / remote.name
    if file.exists():
        return file
    sources.mkdir(parents=True, exist_ok=True)
    part = sources / f"{remote.name}.part"
    faults = []
    for url in remote.urls:  # all serve the same bytes, so each resumes the download of the one before
        try:
            _download(url, part, remote)
            _verify(part, remote.size, remote.md5, "md5")
        except OSError as error:  # every error of requests is one
            faults.append(f"{url}: {_reason(error)}")
            continue
        sync(part)
        move(part, file)
        return file
    raise RetrobenchError(
        f"Could not download {remote.name} ({'; '.join(faults)}). Run the same command again, which goes on from what "
        f"came, or download the file by hand into {sources}."
    )


# No library, because these files are gigabytes: pooch 1.9 deletes the received bytes when a connection breaks off, and
# ir_datasets resumes only within one process.
def _download(url: str, part: Path, remote: Remote) -> None:
    """Append the missing bytes to `part`, or all of them where the server cannot resume."""
    import requests

    done = part.stat().st_size if part.exists() else 0
    if done and done == remote.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with requests.get(url, headers=headers, stream=True, timeout=SECONDS) as answer:
        if done and answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            done = 0
        total = done + int(answer.headers.get("Content-Length", 0))
        with part.open("ab" if done else "wb") as stream, bar(remote.name, total // KIB, "KiB", done // KIB) as advance:
            for chunk in answer.iter_content(CHUNK):
                stream.write(chunk)
                advance(len(chunk) // KIB)


def _verify(file: Path, size: int, digest: str, algorithm: str) -> None:
    """Remove the file and raise OSError unless it has this size and this hash. Size 0 and hash "" are not published."""
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


def fetch_parquet(repo: str, revision: str, path: str, into: Path) -> list[Path]:
    """
    The parquet files below `path` of a dataset on the hub, in the order of their names, downloaded into `into`.

    Files that are there in their published size are kept; what is downloaded is checked against the hub's SHA-256.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    try:
        tree = api.list_repo_tree(repo, path, recursive=True, revision=revision, repo_type="dataset")
        files = [file for file in tree if isinstance(file, RepoFile) and file.path.endswith(".parquet")]
        for file in files:
            place = into / file.path
            if not place.exists() or place.stat().st_size != file.size:
                api.hf_hub_download(repo, file.path, repo_type="dataset", revision=revision, local_dir=into)
                _verify(place, file.size, file.lfs.sha256 if file.lfs else "", "sha256")
    # The hub's errors and those of its HTTP library have no common class, and the library changes between versions.
    except Exception as error:
        url = f"https://huggingface.co/datasets/{repo}/tree/{revision.replace('/', '%2F')}/{path}"
        raise RetrobenchError(
            f"Could not download {url} ({type(error).__name__}: {str(error)[:200]}). Run the same command again, or "
            f"download its parquet files by hand into {into}."
        ) from error
    return sorted(into / file.path for file in files)


def at_hand(folder: Path) -> list[Path]:
    """The parquet files below a folder, by name; none where the names (`-00003-of-00041`) say that some are missing."""
    files = sorted(folder.rglob("*.parquet"))
    numbered = [found for file in files if (found := re.search(r"-(\d{5})-of-(\d{5})", file.name))]
    parts = {(found[1], found[2]) for found in numbered}
    return [] if any(len(parts) < int(total) for _, total in parts) else files


def unpack(archive: Path, names: Collection[str], into: Path) -> None:
    """Write the members with these names, in whatever folder of the archive, into the folder `into`."""
    into.mkdir(parents=True, exist_ok=True)
    left = set(names)
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name, stream = Path(member.name).name, tar.extractfile(member)
                if name in left and stream is not None:
                    with (into / name).open("wb") as file:
                        shutil.copyfileobj(stream, file)
                    left.remove(name)
    except BROKEN as error:
        raise damaged(archive, error) from None
    if left:
        raise RetrobenchError(
            f"{archive} holds no {', '.join(sorted(left))}. Remove it and run the same command again."
        )


def lines(file: Path) -> Iterator[bytes]:
    """Each line without its end, LF or CRLF. A file whose name ends in .gz is unpacked on the way."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            for line in stream:
                yield line.rstrip(b"\r\n")
    except BROKEN as error:
        raise damaged(file, error) from None
