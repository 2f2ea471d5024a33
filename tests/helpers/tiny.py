"""A whole track in miniature: a collection in BEIR's layout, a random base and a track file, written into a folder."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from transformers.utils import logging

DOCUMENTS, QUERIES = 60, 80
CONSONANTS, VOWELS = "bdfgklmnprst", "aeiou"
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
    """Where the parts lie."""

    data: Path
    base: Path
    track: Path
    store: Path
    boards: Path

    def options(self, *objectives: str) -> list[str]:
        """The words of a run of these entrants, after `retrobench`."""
        named = [word for name in objectives for word in ("--objective", name)]
        places = ["--track", str(self.track), "--store", str(self.store), "--leaderboard", str(self.boards)]
        return ["run", *named, *places]

    def rows(self) -> list[dict[str, Any]]:
        """The leaderboard's rows as they stand in the file."""
        file = self.boards / self.track.stem / "rows.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def finished(self, stage: str) -> list[Path]:
        """The folders of a stage that stand under their final names."""
        return sorted(path for path in self.store.glob(f"{stage}/*") if path.is_dir() and not path.suffix)


def make(folder: Path) -> Tiny:
    """Everything in `folder`, the same each time."""
    tiny = Tiny(*(folder / name for name in ("data", "base", "tiny.toml", "store", "boards")))
    write_collection(tiny.data)
    write_base(tiny.base)
    tiny.track.write_text(TRACK.format(base=tiny.base, data=tiny.data))
    return tiny


def write_collection(folder: Path) -> None:
    """60 documents of invented words, two of them without a word to learn from, and queries of their words."""
    draw = random.Random(1)
    syllables = [a + b for a in CONSONANTS for b in VOWELS]
    words = [*syllables, *("".join(draw.choices(syllables, k=2)) for _ in range(60))]
    texts = [" ".join(draw.choices(words, k=draw.randrange(6, 40))) for _ in range(DOCUMENTS - 2)]
    documents = [{"_id": f"d{row}", "title": draw.choice(words), "text": text} for row, text in enumerate(texts)]
    documents += [{"_id": "specials", "title": "", "text": "[SEP] [MASK] [CLS] [PAD]"}]
    documents += [{"_id": "empty", "title": "", "text": ""}]
    of = [draw.sample(range(len(texts)), k=2 if query % 5 == 0 else 1) for query in range(QUERIES)]
    asked = [" ".join(draw.sample(texts[found[0]].split(), k=4)) for found in of]
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", documents)
    write_lines(folder / "queries.jsonl", [{"_id": f"q{row}", "text": text} for row, text in enumerate(asked)])
    for split, queries in SPLITS.items():
        judged = [f"q{query}\td{document}\t1\n" for query in queries for document in of[query]]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))


def write_lines(file: Path, rows: Sequence[object]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over syllables. Written down, as a trained vocabulary differs from process to process."""
    pieces = [f"{mark}{a}{b}" for mark in ("", "##") for a in CONSONANTS for b in ("", *VOWELS)]
    vocabulary = {piece: number for number, piece in enumerate([*SPECIALS, "[unused0]", *pieces])}
    words = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIALS}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)  # type: ignore[no-untyped-call]


def write_base(folder: Path) -> None:
    """A BERT of two layers, 16 wide, with random weights and dropout."""
    words = tokenizer()
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": words.pad_token_id}
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    BertForMaskedLM(BertConfig(vocab_size=len(words) + 3, **shape)).save_pretrained(folder)
    words.save_pretrained(folder)
