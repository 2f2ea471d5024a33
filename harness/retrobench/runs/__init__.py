"""
Whole runs.

* sweep      objectives times seeds, to rows
* evaluation any encoder on datasets
* make       how the embedded collection, tokenizer and base model were made
"""

from retrobench.retrieval import Choices
from retrobench.runs.evaluation import evaluate
from retrobench.runs.sweep import Request, sweep

__all__ = ["Choices", "Request", "evaluate", "sweep"]
