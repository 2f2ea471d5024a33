"""
Whole runs.

* sweep        runs objectives and seeds, and appends rows.
* evaluation   scores a published encoder on datasets.
* conversion   turns a pickled checkpoint into safetensors.
* verification holds rows against everything that they stand on.
* term_coverage measures the words that vectors name.
* make         makes the embedded collection, tokenizer and base model.
"""

from retrobench.retrieval import Choices
from retrobench.runs.conversion import convert
from retrobench.runs.evaluation import evaluate
from retrobench.runs.sweep import Request, sweep
from retrobench.runs.term_coverage import CoverageChoices, coverage
from retrobench.runs.verification import verify

__all__ = ["Choices", "CoverageChoices", "Request", "convert", "coverage", "evaluate", "sweep", "verify"]
