"""Rows and claims whose comparisons are known by hand, for the tests of the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrobench.config import read_track, resolve
from retrobench.leaderboard.evidence import keep_track
from retrobench.leaderboard.rows import Row, append

DATASET = "retrobench/squad/test"

# 30 queries. Against bert, mlm gains 0.012 on one half and loses 0.010 on the other; retromae gains 0.2.
BERT = {f"q{i}": 0.25 * (i % 3) for i in range(30)}
MLM = {query: value + (0.012, -0.010)[i % 2] for i, (query, value) in enumerate(BERT.items())}
RETROMAE = {query: value + (0.19, 0.21)[i % 2] for i, (query, value) in enumerate(BERT.items())}


def mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def row(entrant: str = "bert", seed: int | None = 0, values: Sequence[float] = (0.25,), **changed: Any) -> Row:
    """A row with the measures MRR@10, nDCG@10, ... in this order."""
    measures = dict(zip(("MRR@10", "nDCG@10"), values, strict=False))
    plain = Row(
        track="mini",
        identity="0123456789abcdef",
        track_toml="",
        overrides={},
        content={},
        entrant=entrant,
        objective=entrant,
        settings={"mask_ratio": 0.3},
        objective_source="",
        representation="cls",
        checkpoint=None,
        seed=seed,
        processes=1,
        measures={DATASET: measures},
        selection={"in-batch": 0.2, "mined": 0.25},
        artifacts={"score": f"{entrant}-{seed}"},
        commit="f00dfeedf00dfeed",
        version="0.1.0",
        plugin={"distribution": "retrobench", "version": "0.1.0"},
        libraries={"torch": "2.13.0"},
        hardware={"cpu": "a processor", "cores": 2},
        cost={
            "tokenise": {"seconds": 5.0},
            "pretrain": {"seconds": 90.0, "tokens_per_second": 25000.0, "peak_memory_bytes": 2.0**31},
            "finetune": {"seconds": 120.0, "peak_memory_bytes": 2.0**30},
        },
        date="2026-01-02T03:04:05Z",
        command=f"retrobench run --objective {entrant} --seed {seed}",
        facts={},
        round="",
        negatives=0.0,
    )
    return replace(plain, **changed)


def filled(folder: Path, lines: Mapping[str, Mapping[str, float]]) -> Path:
    """A track's folder with one seed of each entrant."""
    for entrant, values in lines.items():
        append(folder, row(entrant, 0, [mean(values)]), {DATASET: {"MRR@10": values}})
    return folder


def entrants(folder: Path) -> Path:
    """A track's folder in which retromae beats the others, and mlm and bert cannot be told apart."""
    return filled(folder, {"bert": BERT, "mlm": MLM, "retromae": RETROMAE})


def facts(**changed: Any) -> dict[str, Any]:
    """What a row says of one dataset."""
    plain = {"documents": 100, "queries": 30, "corpus": "c" * 64, "qrels": "d" * 64, "titles": "space"}
    plain |= {"query_length": 32, "passage_length": 140, "similarity": "dot"}
    plain |= {"relevance_level": 1, "missing": 0, "self_hits_removed": 0, "ties": 3}
    return plain | changed


CLAIMS = """
[dataset]
"*" = { documents = 100, titles = "space", query_length = 32, passage_length = 140, similarity = "dot" }
"d:dev" = { label = "dev", queries = 30, judgements = 31, qrels = "QRELS" }
"secret" = { reason = "its corpus needs a licence" }

[[table]]
id = "paper/table-1"
title = "MRR & more"
paper = "Paper (2020)"
source = "arXiv:1, Table 1"
note = "Read with care."
set = ["adapt.corpus=[]", "distil.*=*"]
round = "in-batch"
columns = ["d:dev MRR@10", "d:dev Recall@1000", "secret MRR@10"]
headers = ["", "R@1k", ""]
rows = [
    { model = "BERT", entrant = "bert", values = [0.300, "the paper prints none", 0.1] },
    { model = "RetroMAE", entrant = "retromae", checkpoint = "authors/model", values = [0.350, 0.970, 0.2] },
    { model = "mask .9", entrant = "retromae", set = ["objective.mask_ratio=0.9"], values = [0.330, 0.960, 0.3] },
    { model = "Condenser", reason = "no such plugin", values = [0.336, 0.968, 0.4] },
]
[[table.corrections]]
model = "RetroMAE"
column = "d:dev Recall@1000"
printed = 0.097
source = "arXiv:2"
note = "a digit fell out"

[[table]]
id = "paper/table-1"
title = "questions"
paper = "Paper (2020)"
source = "arXiv:1, Table 1"
reason = "no track measures questions"
columns = ["questions R@5"]
rows = [{ model = "BERT", values = [0.7] }]
""".replace("QRELS", "d" * 64)

TRACK = """
[model]
base = "a-base"
[pretrain]
steps = 100
batch = 8
learning_rate = 1e-4
corpus = ["general"]
[adapt]
steps = 50
batch = 8
learning_rate = 1e-4
corpus = ["d:corpus"]
[finetune]
steps = 60
batch = 8
learning_rate = 1e-4
queries = "d:train"
[evaluate]
datasets = ["d:dev"]
measures = ["MRR@10", "Recall@1000"]
"""

SETTINGS = {  # of the objectives as released
    "bert": {},
    "retromae": {
        "mask_ratio": 0.3,
        "decoder_mask_ratio": 0.5,
        "mask_pool": 256,
        "query_form": "positions",
        "corruption": "80/10/10",
        "decoder_reduction": "mean",
    },
}
QUERIES = [f"q{number}" for number in range(30)]


def measured(entrant: str = "bert", mrr: float = 0.3, seed: int = 0, recall: float = 0.965, **changed: Any) -> Row:
    if changed.get("checkpoint"):
        changed["checkpoint"] = {"name": changed["checkpoint"], "label": changed["checkpoint"], "hash": "a" * 64}
    plain: dict[str, Any] = {
        "track": "small",
        "overrides": {"adapt.corpus": []},
        "settings": SETTINGS[entrant],
        "measures": {"d:dev": {"MRR@10": mrr, "Recall@1000": recall}},
        "facts": {"d:dev": facts()},
        "artifacts": {"finetune": f"{entrant}-{seed}-{mrr}"},
        "round": "in-batch",
    }
    return row(entrant, seed, **(plain | changed))


def board(folder: Path, *rows: Row, values: dict[str, float] | None = None) -> Path:
    """A folder of tracks, with claims and rows of one; a row's value by query is its mean, a little up and down."""
    (folder / "small").mkdir(parents=True, exist_ok=True)
    (folder / "small" / "claims.toml").write_text(CLAIMS, "utf-8")
    for row in rows:
        mean = row.measures.get("d:dev", {}).get("MRR@10", 0.0)
        spread = {query: mean + 0.01 * (-1) ** number for number, query in enumerate(QUERIES)}
        by_query = {"d:dev": {"MRR@10": values or spread}} if mean else {}
        append(folder / "small", row, by_query)
    return folder


def write_track(folder: Path, text: str = TRACK) -> Path:
    """Write the track `small` beside its claims, and return its file."""
    file = folder / "small" / "track.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def tracked(file: Path, row: Row, *overrides: str, kept: bool = True) -> Row:
    """Return a row under a track file with overrides, as `run` makes it; the resolved track is kept beside it."""
    track = read_track(file, "small", overrides)
    row = replace(row, identity=track.identity, overrides=dict(track.overrides))
    if kept:
        row = replace(row, track_toml=keep_track(file.parent, track.identity, resolve(track)))
    return row


def cells(text: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the records of `reproduce --format json` by model and column."""
    records: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for section in json.loads(text)["parts"]:
        for record in section["cells"]:
            column = f"{record['dataset']} {record['measure']}"
            records.setdefault((record["model"], column), []).append(record)
    return records
