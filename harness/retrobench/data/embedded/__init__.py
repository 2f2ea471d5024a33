"""
The files that ship with the package: a collection, a tokenizer and a base model.

* register    make the collection known to ir_datasets
* path        the folder of a shipped part
* collection  the collection in ir_datasets' own classes
"""

from pathlib import Path

__all__ = ["MODELS", "SHIPPED", "SPLITS", "SQUAD", "path", "register"]

MODELS = {"retrobench/base": "base", "retrobench/tokenizer": "tokenizer"}  # the name of each -> its folder

SQUAD = "retrobench/squad"
SPLITS = ("train", "fit", "val", "test")
SHIPPED = (SQUAD, *(f"{SQUAD}/{split}" for split in SPLITS))  # dataset ids


def path(name: str) -> Path:
    """Return the folder of the shipped part called `name`: `squad`, `tokenizer`, ..."""
    return Path(__file__).parent / name


def register() -> None:
    """Make the shipped collection known to ir_datasets, for this process. A second call changes nothing."""
    import ir_datasets

    if SQUAD in ir_datasets.registry:
        return
    from retrobench.data.embedded.collection import datasets

    for name, dataset in datasets().items():
        ir_datasets.registry.register(name, dataset)
