"""
Whole runs.

* sweep        runs objectives and seeds, and appends rows.
* evaluation   scores a published encoder on datasets.
* conversion   turns a pickled checkpoint into safetensors.
* verification holds rows against everything that they stand on.
* term_coverage measures the words that vectors name.
* keeping      what lies in a store, and which rows need it.
* moving       a row with its artifacts as one archive.
* make         makes the embedded collection, tokenizer and base model.
"""

from retrobench.retrieval import Choices
from retrobench.runs.conversion import convert
from retrobench.runs.evaluation import evaluate
from retrobench.runs.keeping import list_store, measure_store, prune_store, verify_store
from retrobench.runs.moving import export_row, import_archive
from retrobench.runs.sweep import Request, sweep
from retrobench.runs.term_coverage import CoverageChoices, coverage
from retrobench.runs.verification import verify

__all__ = [
    "Choices",
    "CoverageChoices",
    "Request",
    "convert",
    "coverage",
    "evaluate",
    "export_row",
    "import_archive",
    "list_store",
    "measure_store",
    "prune_store",
    "sweep",
    "verify",
    "verify_store",
]
