"""Rows whose comparisons are known by hand, for the tests of the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrobench.leaderboard import Row, append

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
        overrides={},
        entrant=entrant,
        objective=entrant,
        settings={"mask_ratio": 0.3},
        representation="cls",
        checkpoint=None,
        seed=seed,
        chosen="mined",
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
