"""A track in miniature: a collection in BEIR's layout, a random base and a track file."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from transformers.utils import logging

DOCUMENTS, QUERIES = 60, 80
CONSONANTS, VOWELS = "bdfgklmnprst", "aeiou"
SYLLABLES = [consonant + vowel for consonant, vowel in product(CONSONANTS, VOWELS)]
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SPLITS = {"train": range(50), "val": range(50, 65), "test": range(65, 80)}

TRACK = """
title = "Tiny"

[model]
base = "{base}"

[pretrain]
corpus = ["{data}:train"]
steps = 6
batch = 8
learning_rate = 1e-3
max_length = 40
bucket = 2
precision = "fp32"
checkpoint_every = 2
log_every = 1

[finetune]
queries = "{data}:train"
steps = 6
batch = 8
learning_rate = 2e-3
query_length = 12
passage_length = 40
negatives = 2
bucket = 2
precision = "fp32"
checkpoint_every = 2
log_every = 1

[mine]
depth = 10
queries = 40

[representation]
dense = 8
terms = 12

[evaluate]
datasets = ["{data}:test"]
select = "{data}:val"
measures = ["MRR@10", "nDCG@10", "Recall@100", "Success@5", "MAP"]
depth = 50
"""


class Tiny(NamedTuple):
    """The paths of a miniature track."""

    data: Path
    base: Path
    track: Path
    store: Path
    boards: Path

    def options(self, *objectives: str) -> list[str]:
        """Return the command line of a run, after `retrobench`."""
        words = ["run", "--verbose"]
        for name in objectives:
            words += ["--objective", name]
        return [*words, "--track", str(self.track), "--store", str(self.store), "--leaderboard", str(self.boards)]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows in the leaderboard's file."""
        file = self.boards / self.track.stem / "rows.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text().splitlines()]

    def finished(self, stage: str) -> list[Path]:
        """Return the folders of a stage's finished entries."""
        return sorted(path for path in self.store.glob(f"{stage}/*") if path.is_dir() and not path.suffix)


def make(folder: Path) -> Tiny:
    """Write a miniature track into `folder`, with equal bytes each time."""
    tiny = Tiny(folder / "data", folder / "base", folder / "tiny.toml", folder / "store", folder / "boards")
    write_collection(tiny.data)
    write_base(tiny.base)
    tiny.track.write_text(TRACK.format(base=tiny.base, data=tiny.data))
    return tiny


def write_collection(folder: Path) -> None:
    """Write 60 documents of invented words, two of them without words, and queries of the documents' words."""
    draw = random.Random(1)
    words = list(SYLLABLES)
    for _ in range(60):
        first, second = draw.choices(SYLLABLES, k=2)
        words.append(first + second)
    texts = []
    for _ in range(DOCUMENTS - 2):
        length = draw.randrange(6, 40)
        texts.append(" ".join(draw.choices(words, k=length)))
    documents = []
    for row, text in enumerate(texts):
        documents.append({"_id": f"d{row}", "title": draw.choice(words), "text": text})
    documents.append({"_id": "specials", "title": "", "text": "[SEP] [MASK] [CLS] [PAD]"})
    documents.append({"_id": "empty", "title": "", "text": ""})
    positives = []  # of each query, by row; every fifth query has two
    for query in range(QUERIES):
        count = 1
        if query % 5 == 0:
            count = 2
        positives.append(draw.sample(range(len(texts)), k=count))
    queries = []
    for query, rows in enumerate(positives):
        query_words = draw.sample(texts[rows[0]].split(), k=4)
        queries.append({"_id": f"q{query}", "text": " ".join(query_words)})
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", documents)
    write_lines(folder / "queries.jsonl", queries)
    for split, split_queries in SPLITS.items():
        lines = ["query-id\tcorpus-id\tscore\n"]
        for query in split_queries:
            for row in positives[query]:
                lines.append(f"q{query}\td{row}\t1\n")
        (folder / "qrels" / f"{split}.tsv").write_text("".join(lines))


def write_lines(file: Path, rows: Sequence[object]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer of syllables. A trained vocabulary would differ between processes."""
    syllables: list[str] = []
    for consonant in CONSONANTS:
        syllables += [consonant, *(consonant + vowel for vowel in VOWELS)]
    inner_syllables = [f"##{syllable}" for syllable in syllables]
    pieces = [*SPECIALS, "[unused0]", *syllables, *inner_syllables]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    words = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIALS}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)  # type: ignore[no-untyped-call]


def write_base(folder: Path) -> None:
    """Write a BERT of two layers and width 16, with random weights and dropout."""
    words = tokenizer()
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": words.pad_token_id}
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    BertForMaskedLM(BertConfig(vocab_size=len(words) + 3, **shape)).save_pretrained(folder)
    words.save_pretrained(folder)
