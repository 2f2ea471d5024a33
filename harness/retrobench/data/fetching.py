"""
Download datasets of ir_datasets, or build collections, so that later commands need no network.

* fetch_dataset   download or build a dataset
* is_local        tell whether a dataset can be read without a download
* local_dataset   a dataset that is at hand
* local_questions the questions of a dataset that is at hand
* entities        the entities of a dataset that are downloaded
"""

from __future__ import annotations

from retrobench.data import catalogue, groups
from retrobench.data.datasets import Dataset, FolderDataset, load, local_root
from retrobench.data.embedded import SHIPPED
from retrobench.errors import RetrobenchError

__all__ = ["entities", "fetch_dataset", "is_local", "local_dataset", "local_questions"]


def fetch_dataset(dataset_id: str) -> str:
    """Download or build a dataset, or every member of a group, and return a line for each.

    Raise RetrobenchError where a download fails, with the address and the way by hand. A second process that fetches
    the dataset waits for the first.
    """
    from retrobench.data.build import BUILDERS

    if dataset_id in BUILDERS:
        return BUILDERS[dataset_id](local_root() / dataset_id)
    lines = []
    for member in groups.expand(dataset_id):
        lines.append(_fetch(load(member)))
    return "\n".join(lines)


def _fetch(dataset: Dataset) -> str:
    if isinstance(dataset, FolderDataset):
        return f"{dataset.id}: the folder {dataset.folder.absolute()}, nothing to fetch"
    if dataset.id in SHIPPED:
        return f"{dataset.id}: ships with retrobench, nothing to fetch"
    counts = catalogue.published(dataset.id)
    fetched = []
    for entity in entities(dataset.id):
        if dataset.has(entity):
            catalogue.reach(dataset.id, entity)
            if entity in counts:
                fetched.append(f"{counts[entity]:,} {entity}")
            else:
                fetched.append(entity)
    return f"{dataset.id}: {', '.join(fetched)} in {catalogue.home()}, to be used offline"


def is_local(dataset: Dataset) -> bool:
    """Tell whether documents, queries and judgements of a dataset can be read without a download."""
    if isinstance(dataset, FolderDataset) or dataset.id in SHIPPED:
        return True
    files = catalogue.files(dataset.id)
    return bool(files) and all(file.at_hand for file in files)


def local_questions(dataset_id: str) -> dict[str, str]:
    """Return the texts of a dataset's questions by id; none where they cannot be read without a download."""
    dataset = local_dataset(dataset_id)
    if dataset is None:
        return {}
    return {query.id: query.text for query in dataset.queries()}


def local_dataset(dataset_id: str) -> Dataset | None:
    """Return a dataset; None where it cannot be read without a download, as a folder that is gone."""
    try:
        dataset = load(dataset_id)
    except RetrobenchError:
        return None
    return dataset if is_local(dataset) else None


def entities(dataset_id: str) -> tuple[str, ...]:
    """Return the entities of a dataset that are downloaded.

    Pairs of documents are gigabytes, so they are downloaded only for a set of triples, whose purpose they are.
    """
    if "triples" in dataset_id:
        return (*catalogue.ENTITIES, "docpairs")
    return catalogue.ENTITIES
