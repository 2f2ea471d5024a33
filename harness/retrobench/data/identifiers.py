"""The ids and grades that a TREC file can carry and that every scoring tool reads alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from retrobench.errors import RetrobenchError

__all__ = ["LARGEST_GRADE", "TOO_LARGE", "UNFIT", "checked_ids", "fits_trec"]

# trec_eval's code reserves 8 bytes for each grade up to the largest: a grade of ten digits ends the process.
LARGEST_GRADE = 1000

# White space separates the columns of a TREC file, NUL ends a string of trec_eval's, and nobody sees a byte order mark.
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff\ufeff]")

UNFIT = (
    "ids that no TREC file can carry (empty, or with white space, a control character, a byte order mark or a lone "
    "surrogate)"
)
TOO_LARGE = f"grades beyond {LARGEST_GRADE:,} (trec_eval reserves memory by the size of a grade)"


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_HasId)


def fits_trec(identifier: str) -> bool:
    """Tell whether a TREC file can carry an id."""
    return bool(identifier) and _UNFIT.search(identifier) is None


def checked_ids(records: Iterable[R], dataset_id: str, kind: str) -> Iterator[R]:
    """Yield documents or queries unchanged. RetrobenchError at the first id that no TREC file can carry."""
    for record in records:
        if not fits_trec(record.id):
            raise RetrobenchError(
                f"Dataset {dataset_id!r} has {kind} {UNFIT}: {record.id!r}. Rename such ids; "
                f"`retrobench data check {dataset_id}` counts them."
            )
        yield record
