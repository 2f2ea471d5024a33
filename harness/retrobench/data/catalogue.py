"""
ir_datasets, limited to one downloading process at a time, with one-line errors for missing files.

* entry(id)           return ir_datasets' own record of a dataset
* has_documents(id)   tell whether an id names documents
* reach(id, entity)   return the dataset, after downloading the entity's files
* files(id)           return the downloads behind an id, with address, path and size
* published(id)       return the counts that ir_datasets records
* quiet_ir_datasets   keep its log of downloads off standard error

Only this module and `embedded` import ir_datasets, and within functions, because the import takes a third of a second.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench.core import say
from retrobench.data.embedded import SHIPPED
from retrobench.errors import RetrobenchError

__all__ = [
    "ENTITIES",
    "DownloadFile",
    "corpus_id",
    "entry",
    "files",
    "forbids_copies",
    "has_documents",
    "home",
    "ids",
    "licence",
    "published",
    "quiet_ir_datasets",
    "reach",
]

ENTITIES = ("docs", "queries", "qrels")

# Beginnings of ir_datasets' progress messages. Licences that a user has to confirm begin otherwise, and stay visible.
PROGRESS = (
    "[starting]",
    "[finished]",
    "[error]",
    "Opening",
    "download error",
    "Download failed",
    "If you have a local",
)

REASON_LENGTH = 300  # characters of a failure's text that an error message repeats


@dataclass(frozen=True)
class DownloadFile:
    """One file that ir_datasets downloads."""

    url: str
    path: Path  # the path where ir_datasets looks for the file, also when a person puts it there
    bytes: int | None
    at_hand: bool  # whether the file, or a copy that ir_datasets built from it, is on the disk


def quiet_ir_datasets() -> None:
    """Keep ir_datasets' progress messages off standard error in this process. `reach` reports downloads itself."""
    logging.getLogger("ir_datasets").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(PROGRESS)


def entry(dataset_id: str) -> Any:
    """Return ir_datasets' record of a dataset.

    Raise KeyError where ir_datasets has no record, and RetrobenchError for the shipped collection before `register()`.
    """
    import ir_datasets

    if dataset_id in SHIPPED and dataset_id not in ir_datasets.registry:
        raise RetrobenchError(
            f"Dataset {dataset_id!r} ships with retrobench and is not registered with ir_datasets in this process. "
            "Call retrobench.data.register() first."
        )
    return ir_datasets.load(dataset_id)


def has_documents(dataset_id: str) -> bool:
    """Tell whether ir_datasets has documents under an id."""
    try:
        return bool(entry(dataset_id).has("docs"))
    except KeyError:
        return False


def ids() -> list[str]:
    """Return the ids of all datasets that ir_datasets knows."""
    import ir_datasets

    return list(ir_datasets.registry)


def corpus_id(dataset_id: str) -> str:
    """Return the id under which ir_datasets lists the documents of a dataset, shared by its splits."""
    import ir_datasets

    return str(ir_datasets.docs_parent_id(dataset_id))


def forbids_copies(dataset_id: str) -> bool:
    """Tell whether a dataset's licence forbids copies of its texts, as MS MARCO's does."""
    return "msmarco" in dataset_id


def licence(dataset_id: str) -> str | None:
    """Return the licence of a dataset's texts; None where it is not recorded, as ir_datasets records none."""
    if dataset_id in SHIPPED:
        return "CC BY-SA 4.0"
    if forbids_copies(dataset_id):
        return "non-commercial"
    return None


def home() -> Path:
    """Return ir_datasets' own folder: `$IR_DATASETS_HOME`, else `~/.ir_datasets`."""
    import ir_datasets

    return Path(ir_datasets.util.home_path())


def published(dataset_id: str) -> dict[str, int]:
    """Return the recorded count of each entity (`docs`, `queries`, `qrels`), without entities that have no record."""
    metadata = entry(dataset_id).metadata()
    counts = {}
    for entity in ENTITIES:
        if "count" in metadata.get(entity, {}):
            counts[entity] = metadata[entity]["count"]
    return counts


def reach(dataset_id: str, entity: str) -> Any:
    """Return ir_datasets' dataset, after downloading the files of an entity. Reading then needs no network.

    The entity is `docs`, `queries`, `qrels` or `docpairs`. Raise RetrobenchError where the dataset has no such entity,
    or where a file is missing and cannot be downloaded.
    """
    dataset = entry(dataset_id)
    if not dataset.has(entity):
        subsets = [name for name in ids() if name.startswith(f"{dataset_id}/")]
        named_subsets = ", ".join(subsets) or "none"
        raise RetrobenchError(f"Dataset {dataset_id!r} has no {entity}. Its subsets: {named_subsets}.")
    if dataset_id in SHIPPED:
        return dataset
    with _download_lock(dataset_id), _in_one_line(dataset_id, entity):
        _download(dataset_id, entity)
        # ir_datasets builds its local copy before it gives the first row.
        next(iter(getattr(dataset, f"{entity}_iter")()), None)
    return dataset


def files(dataset_id: str, *entities: str) -> tuple[DownloadFile, ...]:
    """Return each download behind the entities once; without entities, behind `docs`, `queries` and `qrels`.

    The result is empty where ir_datasets names no files, for example for a dataset composed of other datasets.
    """
    by_url: dict[str, DownloadFile] = {}
    for _, file in _downloads(dataset_id, entities or ENTITIES):
        earlier = by_url.get(file.url)
        if earlier is None or earlier.at_hand:  # a file is at hand only if every use of it is
            by_url[file.url] = file
    return tuple(by_url.values())


def _download(dataset_id: str, entity: str) -> None:
    """Download archives first, so that a failure comes before ir_datasets draws a bar for its local copy."""
    for download, file in _downloads(dataset_id, (entity,)):
        if not file.at_hand and file.url:
            download.path()
            say(f"{dataset_id}: downloaded {file.url}")


def _downloads(dataset_id: str, entities: tuple[str, ...]) -> Iterator[tuple[Any, DownloadFile]]:
    """Yield ir_datasets' download objects behind the entities, each with its file."""
    dataset = entry(dataset_id)
    for entity in entities:
        if not dataset.has(entity):
            continue
        handler = getattr(dataset, f"{entity}_handler")()
        built = entity == "docs" and _is_built(handler)
        for download, cached in _walk(handler, built, set()):
            file = _download_file(download, cached)
            if file is not None:
                yield download, file


def _is_built(handler: Any) -> bool:
    try:
        return bool(handler.docs_store().built())
    except Exception:  # sources without a store raise errors of different classes
        return False


def _walk(node: Any, cached: bool, seen: set[int]) -> Iterator[tuple[Any, bool]]:
    """Yield the downloads that an object of ir_datasets reads, each with whether a copy built from it is on disk."""
    from ir_datasets.util import Cache, Download

    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, Download):
        yield node, cached
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _walk(child, cached, seen)
    elif type(node).__module__.startswith("ir_datasets"):
        if isinstance(node, Cache) and Path(node.path(force=False)).exists():
            cached = True
        for child in vars(node).values():
            yield from _walk(child, cached, seen)


def _download_file(download: Any, cached: bool) -> DownloadFile | None:
    # Private to ir_datasets: its public `path()` may start the download. Without these two attributes the file stays
    # unknown, as `files` allows, and ir_datasets downloads it on first reading.
    try:
        target = download._cache_path
        size = download._size_hint
    except AttributeError:
        return None
    urls = [mirror.url for mirror in download.mirrors if hasattr(mirror, "url")]
    url = urls[0] if urls else ""
    path = Path(target or home() / "downloads" / (download.expected_md5 or "unknown"))
    return DownloadFile(url, path, size, cached or path.exists())


@contextlib.contextmanager
def _download_lock(dataset_id: str) -> Iterator[None]:
    """Let one process at a time download the archives behind a dataset.

    ir_datasets writes downloads and stores under the same names from every process (its issue #228).
    """
    from filelock import FileLock, Timeout

    lock = FileLock(home() / f"{_archive_family(dataset_id)}.retrobench.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{dataset_id}: waits for another process that is fetching it")
        lock.acquire()
    except OSError:
        pass  # a home that cannot be written to holds nothing half-written
    try:
        yield
    finally:
        lock.release()


def _archive_family(dataset_id: str) -> str:
    """Return a name shared by datasets with common archives: splits of a collection, but not sets of a benchmark."""
    names = dataset_id.split("/")
    if names[0].endswith("beir"):
        return "-".join(names[:2])
    return names[0]


@contextlib.contextmanager
def _in_one_line(dataset_id: str, entity: str) -> Iterator[None]:
    """Turn any failure of ir_datasets into a one-line error that names the missing file."""
    try:
        yield
    except Exception as error:
        needed = f"a file under {home()}"
        by_hand = ""
        missing = [file for file in files(dataset_id, entity) if file.url and not file.at_hand]
        if missing:
            needed = missing[0].url
            by_hand = f" By hand: put that file at {missing[0].path}."
        raise RetrobenchError(
            f"Dataset {dataset_id!r} needs {needed}, which is not here and could not be downloaded "
            f"({_reason(error)[:REASON_LENGTH]}). "
            f"Run `retrobench data fetch {dataset_id}` where there is a network.{by_hand}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the failure beneath ir_datasets' error: the last mirror's failure, and of retries the failure itself."""
    cause: Any = error
    if len(error.args) == 2 and isinstance(error.args[1], list) and error.args[1]:
        cause = error.args[1][-1][1]
    wrapper = cause.args[0] if cause.args else cause
    cause = getattr(wrapper, "reason", cause)
    return " ".join(f"{type(cause).__name__}: {cause}".split())
