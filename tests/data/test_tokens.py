"""Tokenised texts come back as the tokenizer gave them, and a vocabulary says what its tokenizer says."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bases import FAMILIES, byte_level, make, sentences, word_piece
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from retrobench.data import tokens
from retrobench.data.tokens import TokenisedTexts, vocabulary, write_tokens
from retrobench.errors import RetrobenchError
from retrobench.model.loading import load_tokenizer

ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


def expected(tokenizer: Any, text: str) -> tuple[list[int], list[bool]]:
    """Ids, and where the tokenizer's own numbering of words goes up."""
    encoding = tokenizer(text, add_special_tokens=False)
    words = encoding.word_ids()
    return encoding["input_ids"], [at == 0 or words[at] != words[at - 1] for at in range(len(words))]


def assert_round_trip(folder: Path, tokenizer: Any, texts: list[tuple[str, str, str]]) -> TokenisedTexts:
    found = TokenisedTexts.open(folder)
    assert found.ids == [identifier for identifier, _, _ in texts]
    assert len(found) == len(texts)
    for row, (_, title, text) in enumerate(texts):
        passage = found[row]
        assert (passage.title.tolist(), passage.title_starts.tolist()) == expected(tokenizer, title)
        assert (passage.text.tolist(), passage.text_starts.tolist()) == expected(tokenizer, text)
        assert found.lengths[row] == len(passage.title) + len(passage.text)
    return found


@pytest.mark.parametrize("at_once", [1, 3, 4096])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CHUNK_TEXTS", at_once)
    base = make(family, tmp_path)
    found = assert_round_trip(tmp_path, base.tokenizer, base.parts)
    assert any(len(found[row].text) > found[row].text_starts.sum() for row in range(20)), "words of several pieces"


def test_a_word_is_what_the_tokenizer_calls_one(tmp_path: Path) -> None:
    """Punctuation is a word of its own; the pieces behind a word's first are no starts."""
    tokenizer = word_piece()
    write_tokens(tmp_path, [("d", "baba", "bababababa, ba 日本")], tokenizer)
    passage = TokenisedTexts.open(tmp_path)[0]
    pieces = tokenizer.convert_ids_to_tokens(passage.text.tolist())
    assert sum(passage.text_starts) == 4 < len(pieces)
    assert [piece.startswith("##") for piece in pieces] == (~passage.text_starts).tolist()
    assert passage.title_starts[0] and passage.text_starts[0]


@pytest.mark.parametrize("named", [ROBERTA, {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}])
def test_a_title_may_end_in_the_separator(named: dict[str, str], tmp_path: Path) -> None:
    """The ids that [CLS] title [SEP] text has as one text; a text without a title begins with its first word."""
    tokenizer = byte_level(named)
    write_tokens(tmp_path, [("a", "ba be", "bi bo"), ("b", "", "bi")], tokenizer, separated=True)
    found, (title, starts), (text, _) = (
        TokenisedTexts.open(tmp_path),
        *(expected(tokenizer, t) for t in ("ba be", "bi bo")),
    )
    assert found[0].title.tolist() == [*title, tokenizer.get_vocab()["</s>"]]
    assert found[0].title_starts.tolist() == [*starts, True]
    assert found[0].text.tolist() == text and found[1].title.tolist() == []
    assert found.lengths[0] == len(title) + 1 + len(text)


def test_no_separator_to_put_after_titles(tmp_path: Path) -> None:
    tokenizer = byte_level({"pad": "<pad>", "unk": "<unk>", "mask": "<mask>"})
    with pytest.raises(RetrobenchError, match=r"has no sep token to put after titles; join them by a space\."):
        write_tokens(tmp_path, [("a", "ba", "bi")], tokenizer, separated=True)


def test_counts_and_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CHUNK_TEXTS", 5)
    steps: list[int] = []
    counted = write_tokens(tmp_path, iter(sentences(11)), word_piece(), steps.append)
    assert steps == [5, 5, 3]
    assert counted == {"texts": 13.0, "tokens": float(TokenisedTexts.open(tmp_path).lengths.sum())}


def test_ids_are_mapped_not_read(tmp_path: Path) -> None:
    write_tokens(tmp_path, sentences(5), word_piece())
    found = TokenisedTexts.open(tmp_path)
    assert isinstance(found.tokens, np.memmap) and isinstance(found.starts, np.memmap)
    assert found.tokens.dtype == np.uint16
    assert (tmp_path / "tokens.bin").stat().st_size == 2 * found.lengths.sum()
    with pytest.raises(ValueError, match="read-only"):
        found.tokens[0] = 1


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    words = {"[UNK]": 0, **{f"w{number}": number for number in range(1, 2**16 + 1)}}
    pieces = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    write_tokens(tmp_path, [("d", "", "w65535 w65536 nothing")], PreTrainedTokenizerFast(tokenizer_object=pieces))  # type: ignore[no-untyped-call]
    assert TokenisedTexts.open(tmp_path)[0].text.tolist() == [65535, 65536, 0]
    assert TokenisedTexts.open(tmp_path).tokens.dtype == np.uint32
    assert json.loads((tmp_path / "texts.json").read_text()) == {"dtype": "uint32"}


@pytest.mark.parametrize("texts", [[], [("a", "", "")], [("a", "", ""), ("b", " ", "\n")]])
def test_texts_without_a_token(texts: Iterable[tuple[str, str, str]], tmp_path: Path) -> None:
    texts = list(texts)
    assert write_tokens(tmp_path, texts, word_piece()) == {"texts": float(len(texts)), "tokens": 0.0}
    found = assert_round_trip(tmp_path, word_piece(), texts)
    assert found.lengths.tolist() == [0] * len(texts)


def test_what_the_tokenizer_was_last_used_for_is_left_behind(tmp_path: Path) -> None:
    """A tokenizer.json may say to cut after so many tokens and to pad: neither may reach the corpus."""
    plain, texts = word_piece(), tmp_path / "texts"
    marked = copy.deepcopy(plain.backend_tokenizer)
    marked.enable_truncation(4)
    marked.enable_padding(length=16)
    PreTrainedTokenizerFast(tokenizer_object=marked, pad_token="[PAD]").save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    loaded = load_tokenizer(tmp_path)
    assert loaded.backend_tokenizer.truncation["max_length"] == 4 and loaded.backend_tokenizer.padding["length"] == 16
    texts.mkdir()
    write_tokens(texts, sentences(5), loaded)
    assert_round_trip(texts, plain, sentences(5))


# The vocabulary


def test_unused_ids_and_rows_beyond_the_tokenizer_are_no_words() -> None:
    tokenizer = word_piece()
    found, ids = vocabulary(tokenizer, 400), tokenizer.get_vocab()
    named = {ids[token] for token in ("[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    assert found.special == named | set(range(len(ids), 400))
    assert (found.pad, found.cls, found.sep, found.mask) == tuple(ids[f"[{n}]"] for n in ("PAD", "CLS", "SEP", "MASK"))
    assert found.size == 400


def test_a_vocabulary_with_other_special_tokens() -> None:
    tokenizer = byte_level(ROBERTA)
    ids = tokenizer.get_vocab()
    found = vocabulary(tokenizer, len(ids))
    assert found.special == {ids[token] for token in ROBERTA.values()}
    assert (found.cls, found.sep, found.pad) == (ids["<s>"], ids["</s>"], ids["<pad>"])


def test_a_tokenizer_that_names_its_ends_otherwise() -> None:
    """bos and eos stand in where there is no cls and no sep."""
    named = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    tokenizer = byte_level(named)
    found, ids = vocabulary(tokenizer, 390), tokenizer.get_vocab()
    assert (found.cls, found.sep) == (ids["<s>"], ids["</s>"])


def test_added_tokens() -> None:
    """A special one is no word, an ordinary one is."""
    tokenizer = word_piece()
    tokenizer.add_tokens(["<unused7>", "madeupword0003", "ordinary"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[DOC]"]})
    ids, plain = tokenizer.get_vocab(), vocabulary(word_piece(), len(word_piece())).special
    found = vocabulary(tokenizer, len(tokenizer)).special
    assert found == plain | {ids["<unused7>"], ids["madeupword0003"], ids["[DOC]"]}
    assert ids["ordinary"] not in found


def test_words_that_look_unused_are_words() -> None:
    tokenizer = word_piece()
    tokenizer.add_tokens(["unused", "[unusedx]", "[unused1]x"])
    assert vocabulary(tokenizer, len(tokenizer)).special == vocabulary(word_piece(), len(word_piece())).special


def test_without_a_mask_there_is_nothing_to_train() -> None:
    tokenizer = byte_level({name: token for name, token in ROBERTA.items() if name != "mask"})
    with pytest.raises(RetrobenchError, match=r"^The base model's tokenizer has no mask token; choose a masked"):
        vocabulary(tokenizer, 400)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    slow = CanineTokenizer()  # type: ignore[no-untyped-call]
    with pytest.raises(RetrobenchError, match=r"no fast tokenizer; choose a base that ships a tokenizer\.json"):
        vocabulary(slow, 400)
    with pytest.raises(RetrobenchError, match="no fast tokenizer"):
        write_tokens(tmp_path, sentences(3), slow)
    assert list(tmp_path.iterdir()) == []
