"""
Term coverage: the words that an encoder's vectors name.

* coverage      measure rows and models
* encoders      the encoders of a row
"""

from retrobench.runs.term_coverage.coverage import CoverageChoices, Covered, coverage

__all__ = ["CoverageChoices", "Covered", "coverage"]
