"""
The logs of trainings, beside the rows of a track.

`python -m retrobench.leaderboard --curves DIR` copies those that a track's folder DIR lacks from the default store:
`curves/KEY.json.gz` for each pre-training and fine-tuning of its rows, where KEY is that of the artifact.

* keep_curve           copy one log
* read_curve           its records
* write_missing_curves the logs of all rows of a folder
* curve_roles          the trainings of a row
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from retrobench.core import atomic_write, parse_json, processes
from retrobench.errors import RetrobenchError, clip
from retrobench.leaderboard.rows.file import read
from retrobench.leaderboard.rows.row import Row

__all__ = ["curve_roles", "keep_curve", "read_curve", "write_missing_curves"]

LOG = "log.jsonl"
TRAININGS = ("pretrain", "adapt", "finetune")


def curve_roles(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the role, such as `finetune mined`, and the key of each training behind a row, in the order of training."""
    for stage in TRAININGS:
        for role, key in row.artifacts.items():
            if role.split()[0] == stage:
                yield role, key


def keep_curve(folder: Path, key: str, artifact: Path) -> None:
    """Copy the log of the training in `artifact` into a track's folder, unless it lies there. Rank 0 writes it."""
    file = _file(folder, key)
    log = artifact / LOG
    if file.exists() or not log.is_file() or not processes.leads():
        return
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, gzip.compress(json.dumps(records).encode(), mtime=0))  # equal logs, equal bytes


def read_curve(folder: Path, key: str) -> list[dict[str, Any]]:
    """Return the records of a training's log; none where it was not kept. RetrobenchError for a damaged file."""
    file = _file(folder, key)
    if not file.exists():
        return []
    try:
        records = parse_json(gzip.decompress(file.read_bytes()))
        return check_type(records, list[dict[str, Any]], collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except (OSError, EOFError, zlib.error, ValueError, TypeCheckError) as error:
        raise RetrobenchError(
            f"Cannot read the curve {file}: {clip(error)}. "
            f"Delete it and run python -m retrobench.leaderboard --curves {folder}."
        ) from error


def write_missing_curves(folder: Path, store: Path) -> list[Path]:
    """Copy the logs of the trainings behind a folder's rows from a store, and return the files that are there."""
    files: dict[Path, None] = {}
    for row in read(folder):
        for role, key in curve_roles(row):
            keep_curve(folder, key, store / role.split()[0] / key)
            if _file(folder, key).exists():
                files[_file(folder, key)] = None
    return list(files)


def _file(folder: Path, key: str) -> Path:
    return folder / "curves" / f"{key}.json.gz"
