"""The papers' recipes in miniature: the collections that their tracks name, a base and a teacher."""

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

# Overrides that make the recipes small. The datasets keep their ids, which name local collections.
SMALL = [
    *("pretrain.steps=2", "pretrain.batch=8", "pretrain.max_length=40", "pretrain.log_every=1"),
    *("finetune.epochs=1", "finetune.batch=16", "finetune.passage_length=40", "finetune.query_length=12"),
]
LARGE = [
    *("adapt.steps=4", "adapt.batch=8", "adapt.max_length=40", "adapt.log_every=1"),
    *("finetune.negatives=3", "mine.depth=10", "distil.negatives=3", "distil.max_length=60"),
    "finetune.checkpoint_every=1",
]


class RecipeTrack(NamedTuple):
    """A tiny base, a teacher, and the collections that the recipes name. `$RETROBENCH_DATA` must be `data`."""

    tiny: tiny.Tiny
    teacher: Path
    data: Path

    def overrides(self, track: str) -> list[str]:
        overrides = [f"model.base={self.tiny.base}", *SMALL]
        if track == "msmarco":
            overrides += [*LARGE, f"distil.teacher={self.teacher}"]
        return overrides

    def run(self, track: str, *entrants: str, more: Sequence[str] = (), **changed: Any) -> Swept:
        overrides = (*self.overrides(track), *more)
        request = Request(entrants, track, (0,), overrides, self.tiny.store, self.tiny.boards)
        return sweep(request._replace(**changed))


def make(folder: Path) -> RecipeTrack:
    """Write the recipe's inputs into `folder`, with equal bytes each time."""
    recipe = RecipeTrack(tiny.make(folder), folder / "teacher", folder / "collections")
    write_collections(recipe.tiny, recipe.data)
    write_teacher(recipe.teacher, labels=1)
    return recipe


def write_collections(source: tiny.Tiny, folder: Path) -> None:
    """Write `msmarco-titled`, `msmarco-sbert` and `wikibook`, made from the tiny collection."""
    documents = [json.loads(line) for line in (source.data / "corpus.jsonl").read_text().splitlines()]
    untitled = [{**row, "title": ""} for row in documents]
    _write_msmarco(source, folder / "msmarco-titled", documents)
    _write_msmarco(source, folder / "msmarco-sbert", untitled)
    (folder / "wikibook").mkdir()
    tiny.write_lines(folder / "wikibook" / "corpus.jsonl", untitled[:30])


def _write_msmarco(source: tiny.Tiny, folder: Path, documents: list[dict[str, str]]) -> None:
    (folder / "qrels").mkdir(parents=True)
    (folder / "negatives").mkdir()
    tiny.write_lines(folder / "corpus.jsonl", documents)
    (folder / "queries.jsonl").write_text((source.data / "queries.jsonl").read_text())
    for split, source_split in SPLITS.items():
        qrels = (source.data / "qrels" / f"{source_split}.tsv").read_text()
        (folder / "qrels" / f"{split}.tsv").write_text(qrels)
    judgements = (folder / "qrels" / "dl19.tsv").read_text().splitlines()
    (folder / "qrels" / "dl20.tsv").write_text("\n".join(judgements[:8]) + "\n")
    lines = ["query-id\tcorpus-id\n"]
    for query in range(50):
        lines += [f"q{query}\t{document}\n" for document in listed_negatives(query)]
    for query_id, document_id, _ in load(f"{source.data}:train").judgements():
        if query_id == "q0":
            lines.append(f"q0\t{document_id}\n")
    lines += ["q77\td1\n", "q3\tnowhere\n"]
    (folder / "negatives" / "train.tsv").write_text("".join(lines))


def listed_negatives(query: int) -> list[str]:
    """Return the ids of a query's negatives: 5 for query 0, none for 1, one for 2, else 4."""
    count = {0: 5, 1: 0, 2: 1}.get(query, 4)
    return [f"d{(7 * query + n) % 58}" for n in range(count)]


def write_teacher(folder: Path, labels: int) -> None:
    """Write a cross-encoder of one layer, with weights large enough for different scores."""
    words = tiny.tokenizer()
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": words.pad_token_id}
    torch.manual_seed(1)
    shape |= {"num_labels": labels}  # the configuration's own signature lacks it
    model = BertForSequenceClassification(BertConfig(vocab_size=len(words), **shape))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
