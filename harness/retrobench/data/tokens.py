"""Tokenised texts on disk: flat ids and offsets, memory-mapped, so that no step tokenises and no corpus need fit."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from retrobench.errors import RetrobenchError
from retrobench.objective import Passage, Vocabulary

__all__ = ["TokenisedTexts", "by_length", "vocabulary", "write_tokens"]

_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")
_AT_ONCE = 4096


def by_length(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row numbers in groups of at most `budget` tokens each, padding included, shortest first; a longer text alone.

    `lengths` [N] are in tokens. Texts of one length keep their order.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # As they are sorted, a group of n texts takes n times the length of its last one.
        sizes = np.arange(1, len(order) - start + 1) * lengths[order[start:]]
        count = max(1, int(np.searchsorted(sizes, budget, side="right")))
        yield order[start : start + count]
        start += count


def vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """The facts of a fast tokenizer beside a model with `size` word vectors, never a constant of one vocabulary."""
    _backend(tokenizer)
    words = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids) | set(range(len(tokenizer), size))
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {i for token, i in words.items() if _UNUSED.fullmatch(token)}
    cls = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    ids = {"pad": tokenizer.pad_token_id, "cls": cls, "sep": _separator(tokenizer), "mask": tokenizer.mask_token_id}
    missing = [name for name, value in ids.items() if value is None]
    if missing:
        raise RetrobenchError(f"The base model's tokenizer has no {missing[0]} token; choose a masked language model.")
    return Vocabulary(size=size, special=frozenset(special), **ids)


def _separator(tokenizer: Any) -> Any:
    return tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id


def write_tokens(
    folder: Path,
    texts: Iterable[tuple[str, str, str]],
    tokenizer: Any,
    advance: Any = None,
    separated: bool = False,
) -> dict[str, float]:
    """Tokenise (id, title, text) triples into `folder`; gives the number of texts and tokens.

    With `separated` a title ends in the tokenizer's separator, which counts as a word of the title.
    """
    backend = _backend(tokenizer)
    between = [_separator(tokenizer)] if separated else []
    if None in between:
        raise RetrobenchError("The base model's tokenizer has no sep token to put after titles; join them by a space.")
    # Many a tokenizer.json carries the truncation and padding of the model's last training run.
    backend.no_truncation()
    backend.no_padding()
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    lengths = array("q")  # of title and text in turn
    with (
        open(folder / "tokens.bin", "wb") as tokens,
        open(folder / "starts.bin", "wb") as starts,
        open(folder / "ids.json", "w", encoding="utf-8") as ids,
    ):
        source = iter(texts)
        while part := list(islice(source, _AT_ONCE)):
            listed = ", ".join(json.dumps(identifier) for identifier, _, _ in part)
            ids.write((", " if lengths else "[") + listed)
            titles = _encode(backend, [title for _, title, _ in part])
            bodies = _encode(backend, [text for _, _, text in part])
            for (title, title_starts), (body, body_starts) in zip(titles, bodies, strict=True):
                if title:
                    title, title_starts = [*title, *between], [*title_starts, *(True for _ in between)]
                lengths.extend((len(title), len(body)))
                tokens.write(np.asarray([*title, *body], dtype).tobytes())
                starts.write(np.asarray([*title_starts, *body_starts], np.bool_).tobytes())
            if advance is not None:
                advance(len(part))
        ids.write("]" if lengths else "[]")
    pairs = np.frombuffer(lengths, np.int64).reshape(-1, 2) if lengths else np.zeros((0, 2), np.int64)
    np.save(folder / "lengths.npy", pairs)
    np.save(folder / "offsets.npy", np.concatenate([[0], pairs.sum(1).cumsum()]))
    (folder / "texts.json").write_text(json.dumps({"dtype": np.dtype(dtype).name}))
    return {"texts": float(len(pairs)), "tokens": float(pairs.sum())}


def _backend(tokenizer: Any) -> Any:
    """What a fast tokenizer works with, and tells words apart by; RetrobenchError for a slow one."""
    if not getattr(tokenizer, "is_fast", False):
        raise RetrobenchError("The base model has no fast tokenizer; choose a base that ships a tokenizer.json.")
    return tokenizer.backend_tokenizer


def _encode(backend: Any, texts: Sequence[str]) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids and word starts of each text; a word is what the tokenizer itself calls one."""
    for encoding in backend.encode_batch(texts, add_special_tokens=False):
        words = encoding.word_ids
        yield encoding.ids, [i == 0 or word != words[i - 1] for i, word in enumerate(words)]


@dataclass(frozen=True)
class TokenisedTexts:
    """Passages by row number. All but the ids is mapped, not read, and the ids only when they are asked for."""

    folder: Path
    tokens: np.ndarray  # of all texts in a row
    starts: np.ndarray
    title_lengths: np.ndarray  # [N]
    offsets: np.ndarray  # [N + 1], where each text begins among the tokens

    @classmethod
    def open(cls, folder: Path) -> TokenisedTexts:
        head = json.loads((folder / "texts.json").read_text())
        lengths = np.load(folder / "lengths.npy", mmap_mode="r")
        known = (folder / "offsets.npy").exists()  # folders of before 0.3 lack it, and name their texts in texts.json
        total = None if known else np.concatenate([[0], lengths.sum(1).cumsum()])
        offsets = np.load(folder / "offsets.npy", mmap_mode="r") if total is None else total
        empty = int(offsets[-1]) == 0  # an empty file cannot be mapped
        tokens = np.zeros(0, head["dtype"]) if empty else np.memmap(folder / "tokens.bin", head["dtype"], "r")
        starts = np.zeros(0, np.bool_) if empty else np.memmap(folder / "starts.bin", np.bool_, "r")
        return cls(folder, tokens, starts, lengths[:, 0], offsets)

    @cached_property
    def ids(self) -> list[str]:
        file = self.folder / "ids.json"
        found: list[str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else self._head()["ids"]
        return found

    def _head(self) -> dict[str, Any]:
        head: dict[str, Any] = json.loads((self.folder / "texts.json").read_text(encoding="utf-8"))
        return head

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Passage:
        first, last = self.offsets[row], self.offsets[row + 1]
        middle = first + self.title_lengths[row]
        tokens, starts = self.tokens, self.starts
        return Passage(tokens[first:middle], starts[first:middle], tokens[middle:last], starts[middle:last])
