"""
The width of the terminal: tables that fit it, and sentences folded at words.

* width_for    the width of paragraphs
* set_width    state the width; None, in a pipe, for no edge
* fit          a table cut and folded to the width, with the names of the columns that were left out
* fold_text    text whose sentences are folded; tables and commands stay as they are
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["fit", "fold_text", "set_width", "width_for"]

NAMES = 3  # columns of texts that name a line: its letter, entrant and representation
NARROWEST = 20  # letters; a column of texts is not folded to less

_width: int | None = None


def set_width(columns: int | None) -> None:
    """State the width of the terminal in letters, None where there is no edge, in this process."""
    global _width
    _width = columns


def width_for(usual: int) -> int:
    """Return the width to fold paragraphs to: the usual one, or a narrower terminal's."""
    return usual if _width is None else min(usual, _width)


def fit(kinds: Sequence[str], widths: Sequence[int], gap: int) -> tuple[list[int], dict[int, int]]:
    """Return the columns that fit the width, in order, and the narrower widths of columns whose texts are folded.

    Columns are left out from the right. The last column of texts is folded before any is left out. The first columns
    of texts, which name a line, and the first measure stay; where they are too wide, texts are folded further.
    """
    kept = list(range(len(widths)))
    folded: dict[int, int] = {}
    if _width is None:
        return kept, folded
    while True:
        shown = {index: folded.get(index, widths[index]) for index in kept}
        excess = sum(shown.values()) + gap * (len(kept) - 1) - _width
        if excess <= 0:
            return kept, folded
        last = kept[-1]
        if kinds[last] == "text" and shown[last] - excess >= NARROWEST:
            folded[last] = shown[last] - excess
            continue
        candidate = _least_needed(kept, kinds)
        if candidate is None:
            texts = [index for index in kept if kinds[index] == "text" and shown[index] > NARROWEST]
            if not texts:
                return kept, folded
            widest = max(texts, key=lambda index: shown[index])
            folded[widest] = max(NARROWEST, shown[widest] - excess)
            continue
        kept.remove(candidate)
        folded.pop(candidate, None)
        if candidate + 1 in kept and kinds[candidate + 1] == "marks":  # marks belong to the column before them
            kept.remove(candidate + 1)


def _least_needed(kept: Sequence[int], kinds: Sequence[str]) -> int | None:
    """Return the column to leave out next; None where only those are left that a table needs."""
    texts = [index for index in kept if kinds[index] == "text"]
    measures = [index for index in kept if kinds[index] == "measure"]
    needed = {*texts[:NAMES], *measures[:1]}
    for index in reversed(kept):
        if index not in needed and kinds[index] != "marks":
            return index
    return None


def fold_text(text: str) -> str:
    """Return text whose long lines are folded at words, but for lines of tables, commands and data."""
    if _width is None:
        return text
    lines = []
    for line in text.split("\n"):
        is_sentence = (line[:1].isalnum() or line[:1] == "`") and line[-1:] in (".", ":") and "  " not in line
        if len(line) > _width and is_sentence:
            line = textwrap.fill(line, _width, break_long_words=False, break_on_hyphens=False)
        lines.append(line)
    return "\n".join(lines)
