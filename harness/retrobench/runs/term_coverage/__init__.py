"""
Term coverage: the words that an encoder's vectors name.

* coverage      measure rows and models
* encoders      the encoders of a row
* texts         the measured texts, and groups of words
* projections   vectors projected to the vocabulary
"""

from retrobench.runs.term_coverage.coverage import CoverageChoices, Covered, coverage

__all__ = ["CoverageChoices", "Covered", "coverage"]
