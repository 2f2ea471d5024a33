"""
ir_datasets, with what it leaves to others: one process at a time, and one line where a file cannot be had.

* entry(id)           ir_datasets' own record of a dataset
* reach(id, entity)   the dataset, once that entity is downloaded and can be read offline
* files(id)           the downloads behind an id: where from, where to, how large, whether still needed
* published(id)       the counts that ir_datasets records
* quiet_ir_datasets   keep its log of downloads off standard error

ir_datasets is imported only here and in `embedded`, and within functions: it takes a third of a second.
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

__all__ = ["ENTITIES", "File", "corpus_id", "entry", "files", "home", "ids", "published", "quiet_ir_datasets", "reach"]

ENTITIES = ("docs", "queries", "qrels")

# How ir_datasets' log of its own work begins. Licences that a user has to confirm begin otherwise, and stay.
CHATTER = ("[starting]", "[finished]", "[error]", "Opening", "download error", "Download failed", "If you have a local")


@dataclass(frozen=True)
class File:
    """One download."""

    url: str
    path: Path  # where it goes, also by hand
    bytes: int | None
    at_hand: bool  # it, or what was made of it, is there


def quiet_ir_datasets() -> None:
    """Keep ir_datasets' log of its own work off standard error, for this process. `reach` says what it downloads."""
    logging.getLogger("ir_datasets").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(CHATTER)


def entry(dataset_id: str) -> Any:
    """Return ir_datasets' record of a dataset; KeyError where it has none.

    RetrobenchError for the shipped collection where nobody has registered it.
    """
    import ir_datasets

    if dataset_id in SHIPPED and dataset_id not in ir_datasets.registry:
        raise RetrobenchError(
            f"Dataset {dataset_id!r} ships with retrobench and is not registered with ir_datasets in this process. "
            "Call retrobench.data.register() first."
        )
    return ir_datasets.load(dataset_id)


def ids() -> list[str]:
    """Return the ids of all datasets that ir_datasets knows."""
    import ir_datasets

    return list(ir_datasets.registry)


def corpus_id(dataset_id: str) -> str:
    """Return the id under which ir_datasets lists the documents of a dataset, shared by its splits."""
    import ir_datasets

    return str(ir_datasets.docs_parent_id(dataset_id))


def home() -> Path:
    """Return ir_datasets' own folder: `$IR_DATASETS_HOME`, else `~/.ir_datasets`."""
    import ir_datasets

    return Path(ir_datasets.util.home_path())


def published(dataset_id: str) -> dict[str, int]:
    """Entity (`docs`, `queries`, `qrels`) -> its count as recorded, where there is a record."""
    metadata = entry(dataset_id).metadata()
    return {entity: metadata[entity]["count"] for entity in ENTITIES if "count" in metadata.get(entity, {})}


def reach(dataset_id: str, entity: str) -> Any:
    """The dataset of ir_datasets, its `docs`, `queries`, `qrels` or `docpairs` ready to be read without a network.

    RetrobenchError where it has no such entity, or where a file is missing and cannot be downloaded.
    """
    dataset = entry(dataset_id)
    if not dataset.has(entity):
        subsets = [name for name in ids() if name.startswith(f"{dataset_id}/")]
        raise RetrobenchError(f"Dataset {dataset_id!r} has no {entity}. Its subsets: {', '.join(subsets) or 'none'}.")
    if dataset_id not in SHIPPED:
        with _alone(dataset_id), _in_one_line(dataset_id, entity):
            _download(dataset_id, entity)
            next(iter(getattr(dataset, f"{entity}_iter")()), None)  # builds what is built before the first is given
    return dataset


def files(dataset_id: str, *entities: str) -> tuple[File, ...]:
    """The downloads behind the entities, `docs`, `queries` and `qrels` if none is named, each once.

    Empty where ir_datasets does not say, as for what it composes of other datasets.
    """
    found: dict[str, File] = {}
    for _, file in _downloads(dataset_id, entities or ENTITIES):
        before = found.get(file.url)
        found[file.url] = file if before is None or before.at_hand else before
    return tuple(found.values())


def _download(dataset_id: str, entity: str) -> None:
    """Fetch archives first, so that a failure is met before ir_datasets draws a bar for what it makes of them."""
    for download, file in _downloads(dataset_id, (entity,)):
        if not file.at_hand and file.url:
            download.path()
            say(f"{dataset_id}: downloaded {file.url}")


def _downloads(dataset_id: str, entities: tuple[str, ...]) -> Iterator[tuple[Any, File]]:
    dataset = entry(dataset_id)
    for entity in entities:
        if not dataset.has(entity):
            continue
        handler = getattr(dataset, f"{entity}_handler")()
        built = entity == "docs" and _is_built(handler)
        for download, cached in _beneath(handler, built, set()):
            file = _file(download, cached)
            if file is not None:
                yield download, file


def _is_built(handler: Any) -> bool:
    try:
        return bool(handler.docs_store().built())
    except Exception:  # not every source has a store, and each says so in its own way
        return False


def _beneath(node: Any, cached: bool, seen: set[int]) -> Iterator[tuple[Any, bool]]:
    """The downloads that an object of ir_datasets reads, each with whether a copy made of it is on disk."""
    from ir_datasets.util import Cache, Download

    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, Download):
        yield node, cached
    elif isinstance(node, list | tuple):
        for part in node:
            yield from _beneath(part, cached, seen)
    elif type(node).__module__.startswith("ir_datasets"):
        cached = cached or (isinstance(node, Cache) and Path(node.path(force=False)).exists())
        for part in vars(node).values():
            yield from _beneath(part, cached, seen)


def _file(download: Any, cached: bool) -> File | None:
    # Private to ir_datasets: its public `path()` may start the download. Without these two attributes the file stays
    # unknown, as `files` allows, and ir_datasets downloads it on first reading.
    try:
        target, size = download._cache_path, download._size_hint
    except AttributeError:
        return None
    url = next((mirror.url for mirror in download.mirrors if hasattr(mirror, "url")), "")
    path = Path(target or home() / "downloads" / (download.expected_md5 or "unknown"))
    return File(url, path, size, cached or path.exists())


@contextlib.contextmanager
def _alone(dataset_id: str) -> Iterator[None]:
    """Keep a second process out: ir_datasets writes downloads and stores under one name from all of them (its #228)."""
    from filelock import FileLock, Timeout

    parts = dataset_id.split("/")
    # What shares archives: the sets of a benchmark do not, the splits of a collection do.
    shared = "-".join(parts[:2] if parts[0].endswith("beir") else parts[:1])
    lock = FileLock(home() / f"{shared}.retrobench.lock")
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


@contextlib.contextmanager
def _in_one_line(dataset_id: str, entity: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        missing = [file for file in files(dataset_id, entity) if file.url and not file.at_hand]
        reason = _reason(error)
        what = missing[0].url if missing else f"a file under {home()}"
        by_hand = f" By hand: put that file at {missing[0].path}." if missing else ""
        raise RetrobenchError(
            f"Dataset {dataset_id!r} needs {what}, which is not here and could not be had "
            f"({reason[:300]}). "
            f"Run `retrobench data fetch {dataset_id}` where there is a network.{by_hand}"
        ) from error


def _reason(error: Exception) -> str:
    """What lies at the bottom: of several mirrors the last one's failure, of retries the failure itself."""
    cause: Any = error
    if len(error.args) == 2 and isinstance(error.args[1], list) and error.args[1]:
        cause = error.args[1][-1][1]
    cause = getattr(cause.args[0] if cause.args else cause, "reason", cause)
    return " ".join(f"{type(cause).__name__}: {cause}".split())
