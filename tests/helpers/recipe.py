"""What the papers' recipes run on in miniature: the collections that their tracks name, a base and a teacher."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tiny
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from retrobench.data.datasets import load
from retrobench.runs.sweep import Request, Swept, sweep

SPLITS = {"train": "train", "dev": "val", "dl19": "test"}

# What makes the recipes small: the ids of their datasets stay, and are looked up among local collections.
SMALL = [
    *("pretrain.steps=2", "pretrain.batch=8", "pretrain.max_length=40", "pretrain.log_every=1"),
    *("finetune.epochs=1", "finetune.batch=16", "finetune.passage_length=40", "finetune.query_length=12"),
]
LARGE = [
    *("adapt.steps=4", "adapt.batch=8", "adapt.max_length=40", "adapt.log_every=1"),
    *("finetune.negatives=3", "mine.depth=10", "distil.negatives=3", "distil.max_length=60"),
    "finetune.checkpoint_every=1",
]


class Recipe(NamedTuple):
    """A tiny base, a teacher, and the collections that the recipes name; `$RETROBENCH_DATA` has to be `data`."""

    tiny: tiny.Tiny
    teacher: Path
    data: Path

    def overrides(self, track: str) -> list[str]:
        more = [*LARGE, f"distil.teacher={self.teacher}"] if track == "msmarco" else []
        return [f"model.base={self.tiny.base}", *SMALL, *more]

    def run(self, track: str, *entrants: str, more: Sequence[str] = (), **changed: Any) -> Swept:
        asked = Request(entrants, track, (0,), (*self.overrides(track), *more), self.tiny.store, self.tiny.boards)
        return sweep(asked._replace(**changed))


def make(folder: Path) -> Recipe:
    """Everything in `folder`, the same each time."""
    made = Recipe(tiny.make(folder), folder / "teacher", folder / "collections")
    write_collections(made.tiny, made.data)
    write_teacher(made.teacher, labels=1)
    return made


def write_collections(made: tiny.Tiny, folder: Path) -> None:
    """`msmarco-titled`, `msmarco-sbert` and `wikibook` out of the tiny collection."""
    documents = [json.loads(line) for line in (made.data / "corpus.jsonl").read_text().splitlines()]
    positives = [(query, document) for query, document, _ in load(f"{made.data}:train").judgements()]
    for name, titled in {"msmarco-titled": True, "msmarco-sbert": False}.items():
        for part in ("qrels", "negatives"):
            (folder / name / part).mkdir(parents=True)
        tiny.write_lines(folder / name / "corpus.jsonl", [row if titled else {**row, "title": ""} for row in documents])
        (folder / name / "queries.jsonl").write_text((made.data / "queries.jsonl").read_text())
        for split, source in SPLITS.items():
            (folder / name / "qrels" / f"{split}.tsv").write_text((made.data / "qrels" / f"{source}.tsv").read_text())
        judged = (folder / name / "qrels" / "dl19.tsv").read_text().splitlines()
        (folder / name / "qrels" / "dl20.tsv").write_text("\n".join(judged[:8]) + "\n")
        # q0 has 5 negatives and one of its own positives among them, q1 none, q2 one, the others four.
        sizes = {0: 5, 1: 0, 2: 1}
        rows = [(f"q{query}", f"d{(7 * query + at) % 58}") for query in range(50) for at in range(sizes.get(query, 4))]
        rows += [pair for pair in positives if pair[0] == "q0"] + [("q77", "d1"), ("q3", "nowhere")]
        text = "".join(f"{query}\t{document}\n" for query, document in rows)
        (folder / name / "negatives" / "train.tsv").write_text("query-id\tcorpus-id\n" + text)
    (folder / "wikibook").mkdir()
    tiny.write_lines(folder / "wikibook" / "corpus.jsonl", [{**row, "title": ""} for row in documents[:30]])


def write_teacher(folder: Path, labels: int) -> None:
    """A cross-encoder of one layer with weights large enough for its scores to differ."""
    words = tiny.tokenizer()
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": words.pad_token_id}
    torch.manual_seed(1)
    shape |= {"num_labels": labels}  # which the configuration's own signature lacks
    model = BertForSequenceClassification(BertConfig(vocab_size=len(words), **shape))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
