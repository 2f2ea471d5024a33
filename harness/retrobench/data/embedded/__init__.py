"""
The files that ship with the package: a collection, a tokenizer and a base model.

* register         make the collection known to ir_datasets
* shipped_folder   return the folder of the collection, the tokenizer or the base model
* collection       the collection in ir_datasets' own classes
"""

from pathlib import Path

__all__ = ["MODELS", "SHIPPED", "SPLITS", "SQUAD", "register", "shipped_folder"]

MODELS = {"retrobench/base": "base", "retrobench/tokenizer": "tokenizer"}  # name -> folder

SQUAD = "retrobench/squad"
SPLITS = ("train", "fit", "val", "test")
SHIPPED = (SQUAD, *(f"{SQUAD}/{split}" for split in SPLITS))  # dataset ids


def shipped_folder(name: str) -> Path:
    """Return a folder that ships with the package: `squad`, `tokenizer` or `base`."""
    return Path(__file__).parent / name


def register() -> None:
    """Make the shipped collection known to ir_datasets, in this process. A second call changes nothing."""
    import ir_datasets

    if SQUAD in ir_datasets.registry:
        return
    from retrobench.data.embedded.collection import datasets

    for name, dataset in datasets().items():
        ir_datasets.registry.register(name, dataset)
