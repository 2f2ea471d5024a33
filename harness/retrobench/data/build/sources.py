"""
What a collection is made from: files put beside it by hand, else downloaded to there.

* Remote, fetch(remote, sources)   a file at one of several addresses, verified; goes on where it broke off
* fetch_parquet(...)               the parquet files under a folder of a dataset on the Hugging Face hub, verified
* at_hand(folder)                  parquet files that are there already
* unpack(archive, names, into)     the named members of a tar archive
* lines(file)                      a text's lines, gzipped or not

The sources of the collection FOLDER lie in FOLDER.sources. A file that is there already is taken as it is.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from retrobench.errors import RetrobenchError
from retrobench.core import bar

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


class _WrongFileError(OSError):
    """What arrived is not the published file."""


def damaged(file: Path, error: Exception) -> RetrobenchError:
    """The error for a source that cannot be read to its end."""
    return RetrobenchError(f"{file} is damaged ({error}). Remove it and run the same command again.")


def fetch(remote: Remote, sources: Path) -> Path:
    """The file, downloaded from the first address that gives it as published.

    Until it is whole and verified it is called NAME.part, and a later call goes on from there. RetrobenchError names
    every address, what was wrong, and the way by hand.
    """
    place = sources / remote.name
    if place.exists():
        return place
    sources.mkdir(parents=True, exist_ok=True)
    part = sources / f"{remote.name}.part"
    faults = []
    for url in remote.urls:  # of the same bytes: the next goes on where the last one broke off
        try:
            if not (remote.size and part.exists() and part.stat().st_size == remote.size):
                _download(url, part, remote.name)
            _verify(part, remote.size, "md5", remote.md5)
        except OSError as error:  # every error of requests is one
            faults.append(f"{url}: {_reason(error)}")
        else:
            return part.rename(place)
    raise RetrobenchError(
        f"Could not download {remote.name} ({'; '.join(faults)}). Run the same command again, which goes on from what "
        f"came, or download the file by hand into {sources}."
    )


def _download(url: str, part: Path, label: str) -> None:
    """Append to `part` what it lacks; from the start where the server cannot go on."""
    import requests

    done = part.stat().st_size if part.exists() else 0
    asked = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, headers=asked, stream=True, timeout=SECONDS) as answer:
        if done and answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there; the hash decides
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            done = 0
        total = done + int(answer.headers.get("Content-Length", 0))
        with part.open("ab" if done else "wb") as file, bar(label, total // KIB, "KiB", done // KIB) as advance:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                advance(len(chunk) // KIB)


def _verify(file: Path, size: int, algorithm: str, expected: str) -> None:
    """Remove the file and raise _WrongFileError unless it has this size and hash, where they are known."""
    found = file.stat().st_size
    fault = f"{found:,} bytes came, {size:,} are published" if size not in (0, found) else ""
    if expected and not fault:
        with file.open("rb") as stream:
            got = hashlib.file_digest(stream, algorithm).hexdigest()
        fault = f"its {algorithm} is {got}, not {expected}" if got != expected else ""
    if fault:
        file.unlink()
        raise _WrongFileError(fault)


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
                _verify(place, file.size, "sha256", file.lfs.sha256 if file.lfs else "")
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
