"""The papers' recipes in miniature: the collections that their tracks name, a base and a teacher."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from retrobench.data.datasets import load
from retrobench.data.tokens import TokenisedTexts
from retrobench.leaderboard.rows import Row
from retrobench.runs.sweep import Request, Swept, sweep
from retrobench.training.examples import Examples

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
    """Hold a tiny base, a teacher, and the collections that the recipes name. `$RETROBENCH_DATA` must be `data`."""

    tiny: tiny.Tiny
    teacher: Path
    data: Path

    def overrides(self, track: str) -> list[str]:
        overrides = [f"model.base={self.tiny.base}", *SMALL]
        if track == "msmarco":
            overrides += [*LARGE, f"distil.teacher={self.teacher}"]
        return overrides

    def run(self, track: str, *entrants: str, more: Sequence[str] = (), **changed: Any) -> Swept:
        """Sweep over the track, with more overrides and changed fields of the request."""
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
    lines = (source.data / "corpus.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in lines]
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
    relevant_ids = load(f"{source.data}:train").qrels()["q0"]
    write_negatives(folder / "negatives" / "train.tsv", relevant_ids)


def write_negatives(file: Path, relevant_ids: Iterable[str]) -> None:
    """Write the listed negatives of 50 queries, and lines to be dropped: relevant documents of q0 and unknown ids."""
    lines = ["query-id\tcorpus-id\n"]
    for query in range(50):
        for document_id in listed_negatives(query):
            lines.append(f"q{query}\t{document_id}\n")
    for document_id in relevant_ids:
        lines.append(f"q0\t{document_id}\n")
    lines += ["q77\td1\n", "q3\tnowhere\n"]
    file.write_text("".join(lines))


def listed_negatives(query: int) -> list[str]:
    """Return the ids of a query's negatives: 5 for query 0, none for 1, one for 2, else 4."""
    counts = {0: 5, 1: 0, 2: 1}
    document_ids = []
    for number in range(counts.get(query, 4)):
        row = (7 * query + number) % 58
        document_ids.append(f"d{row}")
    return document_ids


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


def artifact(recipe: RecipeTrack, row: Row, role: str) -> Path:
    """Return the artifact of a role, with or without the role's dataset."""
    keys = [key for name, key in row.artifacts.items() if name == role or name.startswith(f"{role} ")]
    assert len(keys) == 1
    stage, _, _ = role.partition(" ")
    return recipe.tiny.store / stage / keys[0]


def read_entry(folder: Path) -> dict[str, Any]:
    """Return the sources and settings that the store records of an artifact."""
    entry: dict[str, Any] = json.loads((folder / "entry.json").read_text())
    return entry


def read_log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


class Judgements(NamedTuple):
    """The examples of training, one for each judgement, in the order of the stages."""

    examples: Examples

    def query_id(self, example: int) -> str:
        row = self.examples.query_rows[example]
        query_id: str = self.examples.queries.ids[row]
        return query_id

    def document_ids(self, rows: Iterable[int]) -> list[str]:
        """Return the ids of documents by row. Rows below 0 only fill a table."""
        ids = self.examples.documents.ids
        return [ids[row] for row in rows if row >= 0]


def read_judgements(recipe: RecipeTrack, row: Row) -> Judgements:
    entry = read_entry(artifact(recipe, row, "negatives"))
    documents, queries = entry["sources"]
    query_texts = TokenisedTexts.open(recipe.tiny.store / queries)
    document_texts = TokenisedTexts.open(recipe.tiny.store / documents)
    return Judgements(Examples(query_texts, document_texts, load("msmarco-titled:train"), "judgement"))


class Taught(NamedTuple):
    """A teacher's candidates [60, 10], their scores [60, 10] and the scores of positives [60, 1]."""

    candidates: np.ndarray
    scores: np.ndarray
    positive_scores: np.ndarray


def read_taught(folder: Path) -> Taught:
    candidates = np.load(folder / "candidates.npy")
    scores = np.load(folder / "scores.npy")
    positive_scores = np.load(folder / "positive_scores.npy")
    return Taught(candidates, scores, positive_scores)
