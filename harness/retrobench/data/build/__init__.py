"""
Build the collections that ir_datasets lacks: `BUILDERS[NAME](folder)` builds one and returns a line about it.

* msmarco-titled    MS MARCO's passages with RocketQA's titles: train, dev, dl19, dl20       titled
* msmarco-sbert     MS MARCO's passages without titles, with sentence-transformers' negatives sbert
* wikibook          Wikipedia and BookCorpus in blocks, for pre-training                     wikibook

A builder is a frozen record with settings of its own. It downloads into FOLDER.sources the files that are missing
there, and renames the finished folder last. leaderboards/msmarco/DATA.md lists these files.
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
