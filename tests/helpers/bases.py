"""Tiny masked language models of each family with random weights, with tokenizers and texts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import SYLLABLES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from retrobench import Vocabulary
from retrobench.data.tokens import TokenisedTexts, vocabulary, write_tokens
from retrobench.model.backbones import Backbone

FAMILIES = ("bert", "roberta", "xlm-roberta", "modernbert")
WORDS = 400
SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SHAPE |= {"vocab_size": WORDS, "max_position_embeddings": 50}
MAX_LENGTH = 48  # RoBERTa's 50 positions begin behind its padding id, 1


def sentences(count: int) -> list[tuple[str, str, str]]:
    """Return ids, titles and texts of invented words. Every third title is empty, and a document is."""
    draw = random.Random(0)
    words = []
    for _ in range(150):
        length = draw.choice([1, 2, 2, 3, 5])
        words.append("".join(draw.choices(SYLLABLES, k=length)))
    texts = []
    for _ in range(count):
        length = draw.randrange(4, 60)
        texts.append(" ".join(draw.choices(words, k=length)))
    documents = []
    for row, text in enumerate(texts):
        title = ""
        if row % 3:
            title = draw.choice(words)
        documents.append((str(row), title, text))
    return [*documents, ("empty", "", ""), ("one", "", "ba")]


@dataclass(frozen=True)
class Base:
    """Hold a tokenizer, a masked language model with random weights, and tokenised texts."""

    tokenizer: PreTrainedTokenizerFast
    lm: Any
    vocabulary: Vocabulary
    texts: TokenisedTexts
    parts: list[tuple[str, str, str]]

    def backbone(self) -> Backbone:
        copy = type(self.lm)(self.lm.config)
        copy.load_state_dict(self.lm.state_dict())
        return Backbone(copy)


def byte_level(specials: dict[str, str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE, as of RoBERTa and ModernBERT, with the special tokens in this order."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS - 10,  # fewer than the rows of the model
        special_tokens=[*specials.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text for _, _, text in sentences(40)], trainer)
    names = {f"{name}_token": token for name, token in specials.items()}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)  # type: ignore[no-untyped-call]


def word_piece() -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer, as of BERT, with unused tokens among the special tokens."""
    specials = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=WORDS - 10, special_tokens=specials, show_progress=False)
    pieces.train_from_iterator([text for _, _, text in sentences(40)], trainer)
    names = {f"{name[1:-1].lower()}_token": name for name in specials if "unused" not in name}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **names)  # type: ignore[no-untyped-call]


def model(family: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return a masked language model of a family with random weights and the tokenizer's special ids."""
    ids = {"pad_token_id": tokenizer.pad_token_id}
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    if family == "bert":
        return BertForMaskedLM(BertConfig(**SHAPE, **ids))
    if family == "roberta":
        return RobertaForMaskedLM(RobertaConfig(**SHAPE, **ids, **ends))
    if family == "xlm-roberta":
        return XLMRobertaForMaskedLM(XLMRobertaConfig(**SHAPE, **ids, **ends))
    names = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    return ModernBertForMaskedLM(ModernBertConfig(**SHAPE, **ids, **ends, **names))


def make(family: str, folder: Path) -> Base:
    """Return a base of `family`, with its texts tokenised into `folder`."""
    roberta = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    modern = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    if family == "bert":
        tokenizer = word_piece()
    elif family == "modernbert":
        tokenizer = byte_level(modern)
    else:
        tokenizer = byte_level(roberta)
    documents = sentences(20)
    write_tokens(folder, documents, tokenizer)
    lm = model(family, tokenizer)
    return Base(tokenizer, lm, vocabulary(tokenizer, WORDS), TokenisedTexts.open(folder), documents)
