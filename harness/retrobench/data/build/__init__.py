"""
The collections that ir_datasets does not have, by name: `BUILDERS[NAME](folder)` makes one and says what it made.

* msmarco-titled    MS MARCO's passages with RocketQA's titles: train, dev, dl19, dl20       titled
* msmarco-sbert     the same without titles, with sentence-transformers' hard negatives      sbert
* wikibook          Wikipedia and BookCorpus in blocks, for pre-training                     wikibook

A builder is a frozen record with settings of its own. It reads what lies in FOLDER.sources, downloads the rest to
there, and gives the folder its name last. leaderboards/msmarco/DATA.md says which files these are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from retrobench.data.build.sbert import Sbert
from retrobench.data.build.titled import Titled
from retrobench.data.build.wikibook import Wikibook

__all__ = ["BUILDERS", "Builder"]

Builder = Callable[[Path], str]

BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {"msmarco-titled": Titled(), "msmarco-sbert": Sbert(), "wikibook": Wikibook()}
)
