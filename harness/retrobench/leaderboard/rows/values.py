"""
Values that a row may hold, beside the types of its fields.

* find_fault(values)   the first fault of a row's values; empty for a sound row
* find_unfit(values)   the first value that no record may hold
* check_typed          the fault of a value of another type

A row comes from anybody: its numbers are counted with, and its names become paths in a leaderboard and in a store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from retrobench.errors import clip, quote

__all__ = ["check_typed", "find_fault", "find_unfit"]

DEEPEST = 20  # levels of lists and tables within a field
LARGEST = 2**63  # no count is larger, and every float can hold it

# The facts about a dataset that are computed or written in sentences.
FACTS: dict[str, Any] = {
    **dict.fromkeys(("documents", "queries", "judgements", "missing", "ties", "relevance_level", "limit"), int),
    **dict.fromkeys(("dangling_documents", "dangling_queries", "excluded_removed", "self_hits_removed"), int),
    **dict.fromkeys(("passage_length", "query_length"), int),
    **dict.fromkeys(("corpus", "qrels", "precision", "similarity", "stored", "titles"), str),
    **dict.fromkeys(("stemmer", "stop_words"), str),
    **dict.fromkeys(("rules", "limited_by"), list[str]),
    **dict.fromkeys(("overlap", "overlap_validation"), dict[str, int | str]),
    "pretrained_on": bool,
}
COUNTS = ("documents", "questions", "texts")  # in an overlap
NEEDED = {"passage_length": "query_length", "stemmer": "stop_words"}  # facts that stand together

LONGEST_PATH = 255  # bytes, as of a file's name

# Fields and keys that become paths below a leaderboard, with the beginning of their paths.
PATHS = {"per_query": "per_query/", "identity": ""}
KEPT = "plugins/"


def check_typed(name: str, value: Any, annotation: Any) -> str:
    """Return the fault of a value that is not of its type; empty for a value that is."""
    try:
        check_type(value, annotation, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        return f"its {name} is {quote(value)} ({clip(' '.join(str(error).split()))})"
    return ""


def find_fault(values: Mapping[str, Any]) -> str:
    """Return the first fault of a row's values by field; empty for a sound row. Their types are checked already."""
    return find_unfit(values) or next(_faults(values), "")


def find_unfit(values: Mapping[str, Any]) -> str:
    """Return the first field that cannot be computed with or written, and why; empty where there is none."""
    for name, value in values.items():
        fault = _find_value(value, DEEPEST)
        if fault:
            return f"its {name} {fault}"
    return ""


def _find_value(value: Any, levels: int) -> str:
    """Return the fault of a number that cannot be computed with, of a text without UTF-8, or of nesting."""
    if levels == 0:
        return f"is nested deeper than {DEEPEST} levels"
    if isinstance(value, float) and not math.isfinite(value):
        return f"holds {value}, which is no number"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "holds a number beyond 64 bits"
    if isinstance(value, str) and not _is_text(value):
        return "holds a lone surrogate"
    children: list[Any] = []
    if isinstance(value, dict):
        children = [*value, *value.values()]
    elif isinstance(value, list):
        children = value
    for child in children:
        fault = _find_value(child, levels - 1)
        if fault:
            return fault
    return ""


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    for name, beginning in PATHS.items():
        is_plain = re.fullmatch(r"[\w./+-]*", values[name])  # pages link to it
        if values[name] and not (is_plain and _stays_below(values[name], beginning)):
            yield f"its {name} is {quote(values[name])}, which names no file beside it"
    for key, path in values["plugin"].items():
        if key.split(" ")[-1] == "kept" and not _stays_below(path, KEPT):
            yield f"its plugin was kept as {quote(path)}, which is no file in {KEPT}"
    for role, key in values["artifacts"].items():
        if not _stays_below(f"{role.partition(' ')[0]}/{key}") or not key:
            yield f"its artifact {quote(role)} is {quote(key)}, which is no STAGE/KEY of a store"
    for dataset, facts in values["facts"].items():
        yield from _fact_faults(dataset, facts)
    if not values["measures"] or not all(values["measures"].values()):
        yield "its measures lack a value"
    checkpoint = values["checkpoint"]
    if checkpoint is not None and "hash" not in checkpoint:
        yield "its checkpoint has no hash"


def _stays_below(path: str, beginning: str = "") -> bool:
    """Tell whether a path leads to a file below the folder that it is joined to."""
    parts = path.split("/")
    is_plain = not {"", ".", ".."} & {*parts} and "\0" not in path
    return is_plain and path.startswith(beginning) and len(path.encode()) <= LONGEST_PATH


def _fact_faults(dataset: str, facts: Mapping[str, Any]) -> Iterator[str]:
    for name, annotation in FACTS.items():
        if name in facts:
            fault = check_typed(f"{name} of {quote(dataset)}", facts[name], annotation)
            if fault:
                yield fault
    for name, companion in NEEDED.items():
        if (name in facts) != (companion in facts):
            yield f"its facts of {quote(dataset)} have one of {name} and {companion} alone"
    for name, other in (("overlap", "train"), ("overlap_validation", "validation")):
        overlap = facts.get(name, {})
        if not isinstance(overlap, dict):
            continue  # has a fault of its own
        counts = [overlap.get(count, 0) for count in COUNTS]
        if not all(isinstance(count, int) for count in counts) or not isinstance(overlap.get(other, ""), str):
            yield f"its {name} of {quote(dataset)} is {quote(overlap)}, which are no counts"
        elif overlap.get("questions") and other not in overlap:
            yield f"its {name} of {quote(dataset)} does not name the {other} data"
