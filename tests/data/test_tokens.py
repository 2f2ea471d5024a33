"""Tokenised texts read back equal the tokenizer's output, and a vocabulary holds the tokenizer's special ids."""

from __future__ import annotations

import copy
import json
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
BOS_AND_EOS = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}


def expected(tokenizer: Any, text: str) -> tuple[list[int], list[bool]]:
    """Return token ids, and True at each position where the tokenizer's word number changes."""
    encoding = tokenizer(text, add_special_tokens=False)
    words = encoding.word_ids()
    starts = [True] * len(words)
    for position in range(1, len(words)):
        starts[position] = words[position] != words[position - 1]
    return encoding["input_ids"], starts


def assert_round_trip(folder: Path, tokenizer: Any, texts: list[tuple[str, str, str]]) -> TokenisedTexts:
    """Compare the texts in a folder with the tokenizer's output, and return them."""
    tokenised = TokenisedTexts.open(folder)
    assert tokenised.ids == [text_id for text_id, _, _ in texts]
    assert len(tokenised) == len(texts)
    for row, (_, title, text) in enumerate(texts):
        passage = tokenised[row]
        title_ids, title_starts = expected(tokenizer, title)
        assert passage.title.tolist() == title_ids
        assert passage.title_starts.tolist() == title_starts
        text_ids, text_starts = expected(tokenizer, text)
        assert passage.text.tolist() == text_ids
        assert passage.text_starts.tolist() == text_starts
        assert tokenised.lengths[row] == len(passage.title) + len(passage.text)
    return tokenised


@pytest.mark.parametrize("chunk_texts", [1, 3, 4096])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family: str, chunk_texts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CHUNK_TEXTS", chunk_texts)
    base = make(family, tmp_path)
    tokenised = assert_round_trip(tmp_path, base.tokenizer, base.parts)
    words = tokenised.starts.sum()
    assert len(tokenised.tokens) > words, "a word has several pieces"


def test_word_starts_follow_the_tokenizers_words(tmp_path: Path) -> None:
    """A punctuation mark is a word. Only the first piece of a word is a start."""
    tokenizer = word_piece()
    write_tokens(tmp_path, [("d", "baba", "bababababa, ba 日本")], tokenizer)
    passage = TokenisedTexts.open(tmp_path)[0]
    pieces = tokenizer.convert_ids_to_tokens(passage.text.tolist())
    assert passage.text_starts.sum() == 4
    assert len(pieces) > 4
    for piece, starts_word in zip(pieces, passage.text_starts, strict=True):
        assert piece.startswith("##") == (not starts_word)
    assert passage.title_starts[0]


@pytest.mark.parametrize("specials", [ROBERTA, BOS_AND_EOS])
def test_a_title_may_end_in_the_separator(specials: dict[str, str], tmp_path: Path) -> None:
    """The ids are those of [CLS] title [SEP] text. A text without a title has no separator."""
    tokenizer = byte_level(specials)
    texts = [("a", "ba be", "bi bo"), ("b", "", "bi")]
    write_tokens(tmp_path, texts, tokenizer, separated=True)
    tokenised = TokenisedTexts.open(tmp_path)
    titled, untitled = tokenised[0], tokenised[1]
    title, title_starts = expected(tokenizer, "ba be")
    text, _ = expected(tokenizer, "bi bo")
    separator = tokenizer.get_vocab()["</s>"]
    assert titled.title.tolist() == [*title, separator]
    assert titled.title_starts.tolist() == [*title_starts, True]
    assert titled.text.tolist() == text
    assert untitled.title.tolist() == []
    assert tokenised.lengths[0] == len(title) + 1 + len(text)


def test_no_separator_to_put_after_titles(tmp_path: Path) -> None:
    tokenizer = byte_level({"pad": "<pad>", "unk": "<unk>", "mask": "<mask>"})
    with pytest.raises(RetrobenchError, match=r"no sep token .* titles"):
        write_tokens(tmp_path, [("a", "ba", "bi")], tokenizer, separated=True)


def test_counts_and_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CHUNK_TEXTS", 5)
    steps: list[int] = []
    counts = write_tokens(tmp_path, iter(sentences(11)), word_piece(), steps.append)
    assert steps == [5, 5, 3]
    tokenised = TokenisedTexts.open(tmp_path)
    assert counts == {"texts": 13.0, "tokens": float(tokenised.lengths.sum())}


def test_tokens_are_memory_mapped_and_read_only(tmp_path: Path) -> None:
    write_tokens(tmp_path, sentences(5), word_piece())
    tokenised = TokenisedTexts.open(tmp_path)
    assert isinstance(tokenised.tokens, np.memmap)
    assert isinstance(tokenised.starts, np.memmap)
    assert tokenised.tokens.dtype == np.uint16
    size = (tmp_path / "tokens.bin").stat().st_size
    assert size == 2 * tokenised.lengths.sum()
    with pytest.raises(ValueError, match="read-only"):
        tokenised.tokens[0] = 1


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    words = {"[UNK]": 0}
    for number in range(1, 2**16 + 1):
        words[f"w{number}"] = number
    pieces = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces)  # type: ignore[no-untyped-call]
    write_tokens(tmp_path, [("d", "", "w65535 w65536 nothing")], tokenizer)
    tokenised = TokenisedTexts.open(tmp_path)
    assert tokenised[0].text.tolist() == [65535, 65536, 0]
    assert tokenised.tokens.dtype == np.uint32
    manifest = json.loads((tmp_path / "texts.json").read_text())
    assert manifest == {"dtype": "uint32"}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_texts_without_a_token(count: int, tmp_path: Path) -> None:
    texts = [("a", "", ""), ("b", " ", "\n")][:count]
    tokenizer = word_piece()
    counts = write_tokens(tmp_path, texts, tokenizer)
    assert counts == {"texts": float(count), "tokens": 0.0}
    tokenised = assert_round_trip(tmp_path, tokenizer, texts)
    assert tokenised.lengths.tolist() == [0] * count


def test_truncation_and_padding_of_a_tokenizer_json_are_ignored(tmp_path: Path) -> None:
    plain = word_piece()
    backend = copy.deepcopy(plain.backend_tokenizer)
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    loaded = load_tokenizer(tmp_path)
    assert loaded.backend_tokenizer.truncation["max_length"] == 4
    assert loaded.backend_tokenizer.padding["length"] == 16
    folder = tmp_path / "texts"
    folder.mkdir()
    write_tokens(folder, sentences(5), loaded)
    assert_round_trip(folder, plain, sentences(5))


# The vocabulary


def test_unused_ids_and_rows_beyond_the_tokenizer_are_no_words() -> None:
    tokenizer = word_piece()
    ids = tokenizer.get_vocab()
    facts = vocabulary(tokenizer, 400)
    special = set(range(len(ids), 400))
    for token in ("[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
        special.add(ids[token])
    assert facts.special == special
    assert facts.pad == ids["[PAD]"]
    assert facts.cls == ids["[CLS]"]
    assert facts.sep == ids["[SEP]"]
    assert facts.mask == ids["[MASK]"]
    assert facts.size == 400


def test_a_vocabulary_with_other_special_tokens() -> None:
    tokenizer = byte_level(ROBERTA)
    ids = tokenizer.get_vocab()
    facts = vocabulary(tokenizer, len(ids))
    assert facts.special == {ids[token] for token in ROBERTA.values()}
    assert facts.cls == ids["<s>"]
    assert facts.sep == ids["</s>"]
    assert facts.pad == ids["<pad>"]


def test_bos_and_eos_replace_a_missing_cls_and_sep() -> None:
    tokenizer = byte_level(BOS_AND_EOS | {"mask": "<mask>"})
    ids = tokenizer.get_vocab()
    facts = vocabulary(tokenizer, 390)
    assert facts.cls == ids["<s>"]
    assert facts.sep == ids["</s>"]


def test_an_added_special_token_is_no_word_and_an_ordinary_one_is() -> None:
    tokenizer = word_piece()
    special = vocabulary(tokenizer, len(tokenizer)).special
    tokenizer.add_tokens(["<unused7>", "madeupword0003", "ordinary"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[DOC]"]})
    ids = tokenizer.get_vocab()
    added = {ids["<unused7>"], ids["madeupword0003"], ids["[DOC]"]}
    assert vocabulary(tokenizer, len(tokenizer)).special == special | added


def test_words_that_look_unused_are_words() -> None:
    tokenizer = word_piece()
    special = vocabulary(tokenizer, len(tokenizer)).special
    tokenizer.add_tokens(["unused", "[unusedx]", "[unused1]x"])
    assert vocabulary(tokenizer, len(tokenizer)).special == special


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    tokenizer = byte_level({"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>"})
    with pytest.raises(RetrobenchError, match="no mask token; choose a masked"):
        vocabulary(tokenizer, 400)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    slow = CanineTokenizer()  # type: ignore[no-untyped-call]
    with pytest.raises(RetrobenchError, match=r"no fast tokenizer; .* tokenizer\.json"):
        vocabulary(slow, 400)
    with pytest.raises(RetrobenchError, match="no fast tokenizer"):
        write_tokens(tmp_path, sentences(3), slow)
    assert list(tmp_path.iterdir()) == []
