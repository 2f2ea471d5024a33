"""Rows and claims whose comparisons are known by hand, for the tests of the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrobench.config import read_track, resolve
from retrobench.leaderboard.rows import Row, append, keep_track

DATASET = "retrobench/squad/test"

QUERIES = [f"q{number}" for number in range(30)]


def shifted(values: Mapping[str, float], even: float, odd: float) -> dict[str, float]:
    """Add `even` to the values of the queries 0, 2, ... and `odd` to those of the queries 1, 3, ..."""
    result: dict[str, float] = {}
    for number, (query, value) in enumerate(values.items()):
        shift = even
        if number % 2 == 1:
            shift = odd
        result[query] = value + shift
    return result


# Values by query. Against bert, mlm gains 0.012 on one half and loses 0.010 on the other; retromae gains 0.2.
BERT = dict(zip(QUERIES, 10 * [0.0, 0.25, 0.5], strict=True))
MLM = shifted(BERT, 0.012, -0.010)
RETROMAE = shifted(BERT, 0.19, 0.21)


def mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def around(mean: float, spread: float) -> dict[str, float]:
    """Return values by query above and below a mean in turn."""
    return shifted(dict.fromkeys(QUERIES, mean), spread, -spread)


def row(entrant: str = "bert", seed: int | None = 0, values: Sequence[float] = (0.25,), **changed: Any) -> Row:
    """Return a row with the measures MRR@10 and nDCG@10, as far as there are values."""
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


def filled(folder: Path, lines: Mapping[str, Mapping[str, float]], seeds: int = 3) -> Path:
    """Append equal seeds of each entrant to a track's folder, from values by query, and return the folder."""
    for entrant, values in lines.items():
        for seed in range(seeds):
            append(folder, row(entrant, seed, [mean(values)]), {DATASET: {"MRR@10": values}})
    return folder


def entrants(folder: Path, seeds: int = 3) -> Path:
    """Fill a track's folder with three entrants: retromae beats the others, mlm and bert do not differ."""
    return filled(folder, {"bert": BERT, "mlm": MLM, "retromae": RETROMAE}, seeds)


def facts(**changed: Any) -> dict[str, Any]:
    """Return a row's facts about one dataset."""
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


def measured(entrant: str = "bert", mrr: float = 0.3, seed: int = 0, recall: float = 0.965, **changed: Any) -> Row:
    """Return a row that measures a claim of `CLAIMS`."""
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


def board(folder: Path, *rows: Row) -> Path:
    """Write the track `small` with claims and rows into a folder of tracks, and return that folder.

    A row's values by query lie a little above and below its mean.
    """
    track = folder / "small"
    track.mkdir(parents=True, exist_ok=True)
    (track / "claims.toml").write_text(CLAIMS, "utf-8")
    for row in rows:
        measures = row.measures.get("d:dev", {})
        values = {}
        if "MRR@10" in measures:
            values = {"d:dev": {"MRR@10": around(measures["MRR@10"], 0.01)}}
        append(track, row, values)
    return folder


def squeezed_lines(text: str) -> list[str]:
    """Return the lines of a table in text with one space between words."""
    return [" ".join(line.split()) for line in text.splitlines()]


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
            key = (record["model"], column)
            records.setdefault(key, []).append(record)
    return records
