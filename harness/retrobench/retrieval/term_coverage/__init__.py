"""
Term coverage: the words that an encoder's vectors name.

* texts         the measured texts, and groups of words
* projections   vectors projected to the vocabulary
"""

from retrobench.retrieval.term_coverage.projections import measure_encoder, measure_own_head, vector_with_words
from retrobench.retrieval.term_coverage.texts import Texts, draw_texts, word_groups

__all__ = ["Texts", "draw_texts", "measure_encoder", "measure_own_head", "vector_with_words", "word_groups"]
