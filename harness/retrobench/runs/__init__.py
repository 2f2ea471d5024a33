"""
Whole runs.

* sweep        runs objectives and seeds, and appends rows.
* evaluation   scores a published encoder on datasets.
* make         makes the embedded collection, tokenizer and base model.
"""

from retrobench.retrieval import Choices
from retrobench.runs.evaluation import evaluate
from retrobench.runs.sweep import Request, sweep

__all__ = ["Choices", "Request", "evaluate", "sweep"]
