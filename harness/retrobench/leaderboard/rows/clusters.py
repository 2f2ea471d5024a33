"""
Files of the clusters of queries, beside the rows of a track.

`python -m retrobench.leaderboard --clusters DIR` writes those that a track's folder DIR lacks: `clusters/HASH.json.gz`
for each dataset of its rows, where HASH begins the hash of the judgements. Pages are rendered from these files, without
the datasets.

* write_clusters          the file of one dataset
* read_clusters           the clusters of a dataset of some rows
* write_missing_clusters  the files of all datasets of a track's rows
* Clusters                cluster numbers by query, and what the queries of a cluster share
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrobench.core import atomic_write, parse_json, processes
from retrobench.errors import RetrobenchError, clip
from retrobench.leaderboard.rows.file import read
from retrobench.leaderboard.rows.row import Row

if TYPE_CHECKING:
    from retrobench.data import Collection

__all__ = ["Clusters", "LoadClusters", "read_clusters", "write_clusters", "write_missing_clusters"]

HASH_LENGTH = 16


@dataclass(frozen=True)
class Clusters:
    """The cluster of each query."""

    by: str  # what the queries of a cluster share, as in `rules.Rule`: "document" or "title"
    numbers: Mapping[str, int]


LoadClusters = Callable[[Iterable[Row], str], Clusters | None]


def write_clusters(folder: Path, collection: Collection) -> Path:
    """Write the clusters of a collection into a track's folder, where they are missing, and return the file.

    Rank 0 writes it.
    """
    from retrobench.data import query_clusters

    file = _file(folder, collection.qrels_hash)
    if processes.leads() and not file.exists():
        clusters = Clusters(collection.dataset.rule.clusters, query_clusters(collection.dataset))
        file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(asdict(clusters), sort_keys=True)
        atomic_write(file, gzip.compress(content.encode(), mtime=0))  # equal clusters, equal bytes
    return file


def read_clusters(folder: Path, rows: Iterable[Row], dataset: str) -> Clusters | None:
    """Return the clusters of a dataset that was measured in some of the rows; None without a file."""
    qrels = _qrels_hash(rows, dataset)
    if qrels is None or not _file(folder, qrels).exists():
        return None
    file = _file(folder, qrels)
    try:
        clusters = Clusters(**parse_json(gzip.decompress(file.read_bytes())))
        if set(map(type, clusters.numbers)) - {str} or set(map(type, clusters.numbers.values())) - {int}:
            raise ValueError("it does not number its queries")
        return clusters
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        raise RetrobenchError(
            f"Cannot read {file}, clusters of {dataset}: {clip(error)}. "
            f"Delete it and run python -m retrobench.leaderboard --clusters {folder}."
        ) from error


def _file(folder: Path, qrels_hash: str) -> Path:
    return folder / "clusters" / f"{qrels_hash[:HASH_LENGTH]}.json.gz"


def _qrels_hash(rows: Iterable[Row], dataset: str) -> str | None:
    """Return the hash of the judgements from the first row that has it. The rows of a table agree on it."""
    for row in rows:
        facts = row.facts.get(dataset, {})
        if "qrels" in facts:
            return str(facts["qrels"])
    return None


def write_missing_clusters(folder: Path) -> list[Path]:
    """Write the clusters of each dataset in the rows of a track's folder, and return the files."""
    from retrobench import data

    data.register()
    data.quiet_ir_datasets()
    rows_of_part: dict[tuple[str, data.Part], list[Row]] = {}
    for row in read(folder):
        for dataset, facts in row.facts.items():
            rows_of_part.setdefault((dataset, data.Part.read(facts)), []).append(row)
    files = []
    for (dataset, part), rows in rows_of_part.items():
        collection = data.open_collections([dataset], *part)[dataset]
        measured = _qrels_hash(rows, dataset)
        if measured not in (None, collection.qrels_hash):
            raise RetrobenchError(
                f"{dataset} has other judgements than the rows in {folder}: {collection.qrels_hash[:HASH_LENGTH]}, "
                f"and the rows {str(measured)[:HASH_LENGTH]}. Restore the dataset that was measured."
            )
        files.append(write_clusters(folder, collection))
    return files
