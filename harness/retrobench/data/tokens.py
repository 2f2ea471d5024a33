"""Tokenised texts on disk: flat ids and offsets, memory-mapped, so that no step tokenises and no corpus need fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from retrobench.errors import RetrobenchError
from retrobench.objective import Passage, Vocabulary

__all__ = ["TokenChunk", "TokenisedTexts", "by_length", "vocabulary", "write_chunks", "write_tokens"]

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


@dataclass(frozen=True)
class TokenChunk:
    """Tokens of some texts, one text behind the other; of each text first its title."""

    ids: Sequence[str]
    lengths: np.ndarray  # [N, 2], tokens of each title and of each text
    tokens: np.ndarray  # [sum of lengths]
    starts: np.ndarray  # [sum of lengths] bool, True where a word begins


def write_chunks(folder: Path, chunks: Iterable[TokenChunk], dtype: type[np.unsignedinteger]) -> dict[str, float]:
    """Write tokenised texts into `folder`, chunk by chunk; return the numbers of texts and tokens."""
    written = [np.zeros((0, 2), np.int64)]
    with (
        open(folder / "tokens.bin", "wb") as tokens,
        open(folder / "starts.bin", "wb") as starts,
        open(folder / "ids.json", "w", encoding="utf-8") as ids,
    ):
        separator = "["
        for chunk in chunks:
            ids.write(separator + ", ".join(map(json.dumps, chunk.ids)))
            tokens.write(chunk.tokens.astype(dtype).tobytes())
            starts.write(chunk.starts.astype(np.bool_).tobytes())
            written.append(chunk.lengths)
            separator = ", "
        ids.write("[]" if separator == "[" else "]")
    lengths = np.concatenate(written)
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "offsets.npy", np.concatenate([[0], lengths.sum(1).cumsum()]))
    (folder / "texts.json").write_text(json.dumps({"dtype": np.dtype(dtype).name}))
    return {"texts": float(len(lengths)), "tokens": float(lengths.sum())}


def write_tokens(
    folder: Path,
    texts: Iterable[tuple[str, str, str]],
    tokenizer: Any,
    advance: Any = None,
    separated: bool = False,
) -> dict[str, float]:
    """Tokenise (id, title, text) triples into `folder`; return the numbers of texts and tokens.

    With `separated` a title ends in the tokenizer's separator, which counts as a word of the title.
    """
    backend = _backend(tokenizer)
    between = [_separator(tokenizer)] if separated else []
    if None in between:
        raise RetrobenchError("The base model's tokenizer has no sep token to put after titles; join them by a space.")
    # Many a tokenizer.json carries the truncation and padding of the model's last training run.
    backend.no_truncation()
    backend.no_padding()

    def chunks() -> Iterator[TokenChunk]:
        source = iter(texts)
        while rows := list(islice(source, _AT_ONCE)):
            yield _tokenised(rows, backend, between)
            if advance is not None:
                advance(len(rows))

    return write_chunks(folder, chunks(), np.uint16 if len(tokenizer) <= 2**16 else np.uint32)


def _tokenised(rows: Sequence[tuple[str, str, str]], backend: Any, between: list[int]) -> TokenChunk:
    """Tokenise (id, title, text) triples; `between` stands after every title."""
    titles = _encode(backend, [title for _, title, _ in rows])
    bodies = _encode(backend, [text for _, _, text in rows])
    lengths, tokens, starts = [], [], []
    for (title, title_starts), (body, body_starts) in zip(titles, bodies, strict=True):
        if title:
            title, title_starts = [*title, *between], [*title_starts, *(True for _ in between)]
        lengths.append((len(title), len(body)))
        tokens.append(np.asarray([*title, *body], np.uint32))
        starts.append(np.asarray([*title_starts, *body_starts], np.bool_))
    ids = [identifier for identifier, _, _ in rows]
    return TokenChunk(ids, np.asarray(lengths, np.int64), np.concatenate(tokens), np.concatenate(starts))


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
    """Passages by row number, mapped rather than read; only the ids are read, when first needed."""

    folder: Path
    tokens: np.ndarray  # of all texts in a row
    starts: np.ndarray
    title_lengths: np.ndarray  # [N]
    offsets: np.ndarray  # [N + 1], where each text begins among the tokens

    @classmethod
    def open(cls, folder: Path) -> TokenisedTexts:
        """Map the files of a folder that `write_chunks` wrote."""
        dtype = json.loads((folder / "texts.json").read_text())["dtype"]
        lengths = np.load(folder / "lengths.npy", mmap_mode="r")
        offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        if not offsets[-1]:  # an empty file cannot be mapped
            return cls(folder, np.zeros(0, dtype), np.zeros(0, np.bool_), lengths[:, 0], offsets)
        tokens = np.memmap(folder / "tokens.bin", dtype, "r")
        starts = np.memmap(folder / "starts.bin", np.bool_, "r")
        return cls(folder, tokens, starts, lengths[:, 0], offsets)

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the texts, read when first needed."""
        ids: list[str] = json.loads((self.folder / "ids.json").read_text(encoding="utf-8"))
        return ids

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return the tokens of each text, [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Passage:
        first, last = self.offsets[row], self.offsets[row + 1]
        middle = first + self.title_lengths[row]
        tokens, starts = self.tokens, self.starts
        return Passage(tokens[first:middle], starts[first:middle], tokens[middle:last], starts[middle:last])
