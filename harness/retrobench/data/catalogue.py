"""
ir_datasets, with what it leaves to others: one process at a time, and one line where a file cannot be had.

* reach(id, entity)   the dataset, once that entity is downloaded and can be read offline
* files(id)           the downloads behind an id: where from, where to, how large, whether still needed
* published(id)       the counts that ir_datasets records
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_datasets

from retrobench.core import say
from retrobench.data.embedded.collection import SQUAD
from retrobench.errors import RetrobenchError

__all__ = ["ENTITIES", "File", "files", "home", "published", "reach"]

ENTITIES = ("docs", "queries", "qrels")

# What ir_datasets logs of its own doings, on top of its bars; agreements to be confirmed are not among it.
CHATTER = ("[starting]", "[finished]", "[error]", "Opening", "download error", "Download failed", "If you have a local")
logging.getLogger("ir_datasets").addFilter(lambda record: not record.getMessage().startswith(CHATTER))


@dataclass(frozen=True)
class File:
    """One download."""

    url: str
    path: Path  # where it goes, also by hand
    bytes: int | None
    at_hand: bool  # it, or what was made of it, is there


def home() -> Path:
    """ir_datasets' own folder: `$IR_DATASETS_HOME`, else `~/.ir_datasets`."""
    return Path(ir_datasets.util.home_path())


def published(dataset_id: str) -> dict[str, int]:
    """Entity (`docs`, `queries`, `qrels`) -> its count as recorded, where there is a record."""
    metadata = ir_datasets.load(dataset_id).metadata()
    return {entity: metadata[entity]["count"] for entity in ENTITIES if "count" in metadata.get(entity, {})}


def reach(dataset_id: str, entity: str) -> Any:
    """The dataset of ir_datasets, its `docs`, `queries`, `qrels` or `docpairs` ready to be read without a network.

    RetrobenchError where it has no such entity, or where a file is missing and cannot be downloaded.
    """
    dataset = ir_datasets.load(dataset_id)
    if not dataset.has(entity):
        subsets = [name for name in ir_datasets.registry if name.startswith(f"{dataset_id}/")]
        raise RetrobenchError(f"Dataset {dataset_id!r} has no {entity}. Its subsets: {', '.join(subsets) or 'none'}.")
    if not dataset_id.startswith(SQUAD):
        with _alone(dataset_id), _in_one_line(dataset_id, entity):
            _download(dataset_id, entity)
            next(iter(getattr(dataset, f"{entity}_iter")()), None)  # builds what is built before the first is given
    return dataset


def files(dataset_id: str, *entities: str) -> tuple[File, ...]:
    """The downloads behind the entities, `docs`, `queries` and `qrels` if none is named, each once.

    Empty where ir_datasets does not say, as for what it composes of other datasets.
    """
    found: dict[str, File] = {}
    for download, cached in _downloads(dataset_id, entities or ENTITIES):
        file = _file(download, cached)
        before = found.get(file.url)
        found[file.url] = file if before is None or before.at_hand else before
    return tuple(found.values())


def _download(dataset_id: str, entity: str) -> None:
    """Fetch archives first, so that a failure is met before ir_datasets draws a bar for what it makes of them."""
    for download, cached in _downloads(dataset_id, (entity,)):
        file = _file(download, cached)
        if not file.at_hand and file.url:
            download.path()
            say(f"{dataset_id}: downloaded {file.url}")


def _downloads(dataset_id: str, entities: tuple[str, ...]) -> Iterator[tuple[Any, bool]]:
    dataset = ir_datasets.load(dataset_id)
    for entity in entities:
        if dataset.has(entity):
            handler = getattr(dataset, f"{entity}_handler")()
            built = entity == "docs" and _is_built(handler)
            yield from _beneath(handler, built, set())


def _is_built(handler: Any) -> bool:
    try:
        return bool(handler.docs_store().built())
    except Exception:  # not every source has a store, and each says so in its own way
        return False


def _beneath(node: Any, cached: bool, seen: set[int]) -> Iterator[tuple[Any, bool]]:
    """The downloads that an object of ir_datasets reads, each with whether a copy made of it is on disk."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, ir_datasets.util.Download):
        yield node, cached
    elif isinstance(node, list | tuple):
        for part in node:
            yield from _beneath(part, cached, seen)
    elif type(node).__module__.startswith("ir_datasets"):
        cached = cached or (isinstance(node, ir_datasets.util.Cache) and Path(node.path(force=False)).exists())
        for part in vars(node).values():
            yield from _beneath(part, cached, seen)


def _file(download: Any, cached: bool) -> File:
    url = next((mirror.url for mirror in download.mirrors if hasattr(mirror, "url")), "")
    path = Path(download._cache_path or home() / "downloads" / (download.expected_md5 or "unknown"))
    return File(url, path, download._size_hint, cached or path.exists())


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
