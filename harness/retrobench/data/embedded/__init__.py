"""What retrobench ships besides code (a collection, a tokenizer, a base model), and how collections are read.

* embedded    the shipped collection, as ir_datasets sees it
* folder      a folder in BEIR's layout
* make        the script that made what is shipped
"""

from pathlib import Path

__all__ = ["MODELS", "path"]

MODELS = {"retrobench/base": "base", "retrobench/tokenizer": "tokenizer"}  # by the names they are asked for


def path(name: str) -> Path:
    """The folder of the shipped part called `name`: `squad`, `tokenizer`, ..."""
    return Path(__file__).parent / name
