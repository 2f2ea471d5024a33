"""
Tokenised texts on disk: flat token ids and offsets, memory-mapped.

Training reads token ids instead of tokenising, and a corpus may be larger than memory.
"""

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

__all__ = ["TextRow", "TokenChunk", "TokenisedTexts", "by_length", "vocabulary", "write_chunks", "write_tokens"]

TextRow = tuple[str, str, str]  # id, title, text

_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")
# A token that ends a sentence, with the mark of a word's begin before it and a closing quote or bracket behind it.
_SENTENCE_END = re.compile(r"""[ĠĊ▁]*[.!?…。\uff01\uff1f]+["'\u201d\u2019»)\]]*""")
_CHUNK_TEXTS = 4096  # texts tokenised at a time


def by_length(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Yield groups of row numbers, shortest texts first, with at most `budget` tokens a group, padding included.

    `lengths` [N] are in tokens. A text longer than `budget` is a group of its own. Texts of equal length keep their
    order.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # The texts are sorted, so a group of n texts takes n times the length of its last text.
        remaining = order[start:]
        counts = np.arange(1, len(remaining) + 1)
        sizes = counts * lengths[remaining]
        count = max(1, int(np.searchsorted(sizes, budget, side="right")))
        yield order[start : start + count]
        start += count


def vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """Return the special ids of a fast tokenizer, for a model with `size` word vectors.

    Raise RetrobenchError for a slow tokenizer, and for a tokenizer without a pad, cls, sep or mask token.
    """
    _backend(tokenizer)
    cls = tokenizer.cls_token_id
    if cls is None:
        cls = tokenizer.bos_token_id
    ids = {"pad": tokenizer.pad_token_id, "cls": cls, "sep": _separator(tokenizer), "mask": tokenizer.mask_token_id}
    for name, token_id in ids.items():
        if token_id is None:
            raise RetrobenchError(f"The base model's tokenizer has no {name} token; choose a masked language model.")
    sentence_ends = [token_id for token, token_id in tokenizer.get_vocab().items() if _SENTENCE_END.fullmatch(token)]
    special = _special_ids(tokenizer, size)
    return Vocabulary(size=size, special=special, sentence_ends=frozenset(sentence_ends) - special, **ids)


def _special_ids(tokenizer: Any, size: int) -> frozenset[int]:
    """Return the ids that stand for no word: special tokens, unused tokens, and model rows beyond the tokenizer."""
    special = set(tokenizer.all_special_ids)
    special.update(range(len(tokenizer), size))
    for token_id, added_token in tokenizer.added_tokens_decoder.items():
        if added_token.special:
            special.add(token_id)
    for token, token_id in tokenizer.get_vocab().items():
        if _UNUSED.fullmatch(token):
            special.add(token_id)
    return frozenset(special)


def _separator(tokenizer: Any) -> Any:
    if tokenizer.sep_token_id is None:
        return tokenizer.eos_token_id
    return tokenizer.sep_token_id


@dataclass(frozen=True)
class TokenChunk:
    """The concatenated tokens of N texts. The tokens of a title come before the tokens of its text."""

    ids: Sequence[str]
    lengths: np.ndarray  # [N, 2], tokens of each title and of each text
    tokens: np.ndarray  # [sum of lengths]
    starts: np.ndarray  # [sum of lengths] bool, True where a word begins


def write_chunks(folder: Path, chunks: Iterable[TokenChunk], dtype: type[np.unsignedinteger]) -> dict[str, float]:
    """Write tokenised texts into `folder`, chunk by chunk, and return the numbers of texts and tokens."""
    chunk_lengths = [np.zeros((0, 2), np.int64)]
    with (
        open(folder / "tokens.bin", "wb") as tokens,
        open(folder / "starts.bin", "wb") as starts,
        open(folder / "ids.json", "w", encoding="utf-8") as ids,
    ):
        separator = "["
        for chunk in chunks:
            quoted_ids = map(json.dumps, chunk.ids)
            ids.write(separator + ", ".join(quoted_ids))
            tokens.write(chunk.tokens.astype(dtype).tobytes())
            starts.write(chunk.starts.astype(np.bool_).tobytes())
            chunk_lengths.append(chunk.lengths)
            separator = ", "
        ids.write("[]" if separator == "[" else "]")
    lengths = np.concatenate(chunk_lengths)
    offsets = np.concatenate([[0], lengths.sum(1).cumsum()])
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "offsets.npy", offsets)
    settings = {"dtype": np.dtype(dtype).name}
    (folder / "texts.json").write_text(json.dumps(settings))
    return {"texts": float(len(lengths)), "tokens": float(lengths.sum())}


def write_tokens(
    folder: Path,
    texts: Iterable[TextRow],
    tokenizer: Any,
    advance: Any = None,
    separated: bool = False,
) -> dict[str, float]:
    """Tokenise (id, title, text) triples into `folder`, and return the numbers of texts and tokens.

    With `separated`, a title ends in the tokenizer's separator, which counts as a word of the title.
    """
    backend = _backend(tokenizer)
    title_end = _separator(tokenizer) if separated else None
    if separated and title_end is None:
        raise RetrobenchError("The base model's tokenizer has no sep token to put after titles; join them by a space.")
    # A tokenizer.json may carry the truncation and padding of its model's last training run.
    backend.no_truncation()
    backend.no_padding()

    def chunks() -> Iterator[TokenChunk]:
        remaining = iter(texts)
        while rows := list(islice(remaining, _CHUNK_TEXTS)):
            yield _tokenise(rows, backend, title_end)
            if advance is not None:
                advance(len(rows))

    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    return write_chunks(folder, chunks(), dtype)


def _tokenise(rows: Sequence[TextRow], backend: Any, title_end: int | None) -> TokenChunk:
    """Tokenise (id, title, text) triples. `title_end` is appended to every title that has tokens."""
    titles = _encode(backend, [title for _, title, _ in rows])
    texts = _encode(backend, [text for _, _, text in rows])
    lengths: list[tuple[int, int]] = []
    tokens: list[int] = []
    starts: list[bool] = []
    for (title, title_starts), (text, text_starts) in zip(titles, texts, strict=True):
        if title and title_end is not None:
            title.append(title_end)
            title_starts.append(True)
        lengths.append((len(title), len(text)))
        tokens += title + text
        starts += title_starts + text_starts
    return TokenChunk(
        ids=[text_id for text_id, _, _ in rows],
        lengths=np.asarray(lengths, np.int64),
        tokens=np.asarray(tokens, np.uint32),
        starts=np.asarray(starts, np.bool_),
    )


def _backend(tokenizer: Any) -> Any:
    """Return the Rust tokenizer beneath a fast tokenizer, which numbers words. Raise RetrobenchError for a slow one."""
    if not getattr(tokenizer, "is_fast", False):
        raise RetrobenchError("The base model has no fast tokenizer; choose a base that ships a tokenizer.json.")
    return tokenizer.backend_tokenizer


def _encode(backend: Any, texts: Sequence[str]) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield token ids and word starts of each text. The tokenizer's own word numbers decide where a word starts."""
    for encoding in backend.encode_batch(texts, add_special_tokens=False):
        starts = []
        previous = -1
        for word in encoding.word_ids:
            starts.append(word != previous)
            previous = word
        yield encoding.ids, starts


@dataclass(frozen=True)
class TokenisedTexts:
    """Passages by row number, memory-mapped. Only the ids are read into memory, on first use."""

    folder: Path
    tokens: np.ndarray  # [T], the concatenated tokens of all texts
    starts: np.ndarray  # [T] bool, True where a word begins
    title_lengths: np.ndarray  # [N]
    offsets: np.ndarray  # [N + 1], the position of each text's first token

    @classmethod
    def open(cls, folder: Path) -> TokenisedTexts:
        """Map the files of a folder that `write_chunks` wrote."""
        dtype = json.loads((folder / "texts.json").read_text())["dtype"]
        lengths = np.load(folder / "lengths.npy", mmap_mode="r")
        offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        tokens = np.zeros(0, dtype)
        starts = np.zeros(0, np.bool_)
        if offsets[-1]:  # an empty file cannot be mapped
            tokens = np.memmap(folder / "tokens.bin", dtype, "r")
            starts = np.memmap(folder / "starts.bin", np.bool_, "r")
        return cls(folder, tokens, starts, lengths[:, 0], offsets)

    @cached_property
    def ids(self) -> list[str]:
        """Read the ids of the texts."""
        document = (self.folder / "ids.json").read_text(encoding="utf-8")
        ids: list[str] = json.loads(document)
        return ids

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return the tokens of each text, [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Passage:
        first = self.offsets[row]
        middle = first + self.title_lengths[row]
        last = self.offsets[row + 1]
        return Passage(
            self.tokens[first:middle],
            self.starts[first:middle],
            self.tokens[middle:last],
            self.starts[middle:last],
        )
