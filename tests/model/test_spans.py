"""Spans of a document, and the pairs of them that coCondenser and CoT-MAE draw."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retrobench import Passage, Vocabulary
from retrobench.model import Spans, cut_spans, span_examples
from retrobench_cocondenser import CoCondenser
from retrobench_cot_mae import CONTEXTS, CoTMAE

POINT, QUERY, CONTINUES = 1012, 1013, 1400
VOCABULARY = Vocabulary(
    size=1600,
    pad=0,
    cls=101,
    sep=102,
    mask=103,
    special=frozenset(range(999)),
    sentence_ends=frozenset({POINT, QUERY}),
)


def document(ids: list[int], title: int = 0) -> Passage:
    """Build a document of which the first `title` ids are the title; ids from 1400 continue a word."""
    tokens = np.array(ids, np.uint16)
    starts = tokens < CONTINUES
    tokens.setflags(write=False)  # texts are mapped from a file
    starts.setflags(write=False)
    return Passage(tokens[:title], starts[:title], tokens[title:], starts[title:])


def sentences(*lengths: int) -> Passage:
    """Build a document of sentences of so many tokens, each of one word of its own and a point."""
    ids = []
    for number, length in enumerate(lengths):
        ids += [1020 + number % 300] * (length - 1) + [POINT]
    return document(ids)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def edges(passage: Passage, most: int, **options: Any) -> list[int]:
    """Return where a document is cut."""
    spans = cut_spans(passage, VOCABULARY, most, **options)
    tokens = [token for number in range(len(spans)) for token in spans.span(number).text]
    assert tokens == [*passage.title, *passage.text]
    cut: list[int] = spans.edges.tolist()
    return cut


# Where documents are cut


def test_spans_hold_as_many_whole_sentences_as_fit() -> None:
    assert edges(sentences(4, 4, 4, 4, 4), 12) == [0, 12, 20]
    assert edges(sentences(4, 4, 4, 4, 4), 11) == [0, 8, 16, 20]
    assert edges(sentences(9, 3, 3), 9) == [0, 9, 15]


def test_a_long_sentence_is_cut_between_words() -> None:
    words = [1020, 1400, 1401, 1021, 1402, 1022, 1403, 1404, 1023]  # of 3, 2, 3 and 1 tokens
    assert edges(document(words), 6) == [0, 5, 9]
    assert edges(document(words), 4) == [0, 3, 5, 9]


def test_a_long_word_is_a_span() -> None:
    assert edges(document([1020, *[1400] * 7, 1021, 1022]), 4) == [0, 8, 10]


@pytest.mark.parametrize(
    ("passage", "middle"),
    [
        (sentences(3, 4, 9), 7),
        (sentences(3, 9, 4), 12),
        (document([1020, 1400, 1401, 1021, 1400, 1022]), 3),
        (document([1020, POINT, 1400, 1021, 1022, 1023]), 3),  # a mark within a word
        (document([1020, 1020, POINT, QUERY, POINT, 1021, 1021]), 5),  # the last of several marks
        (document([1020, 1021, 1022, 1023, POINT]), 2),  # a mark at the end divides nothing
    ],
    ids=["before the middle", "behind the middle", "no sentence", "within a word", "several marks", "at the end"],
)
def test_a_short_document_is_cut_near_its_middle(passage: Passage, middle: int) -> None:
    assert edges(passage, 100) == [0, middle, len(passage.text)]


@pytest.mark.parametrize("ids", [[], [1020], [1020, 1400, 1401]], ids=["empty", "a token", "a word"])
def test_a_document_that_cannot_be_cut_has_an_empty_span(ids: list[int]) -> None:
    assert edges(document(ids), 100) == [0, len(ids), len(ids)]


def test_a_title_is_the_beginning_of_the_first_sentence() -> None:
    text = [1020, 1021, 1022, POINT, 1023, 1024, 1025, POINT]
    assert edges(document([1030, 1031, *text], title=2), 7) == [0, 6, 10]
    assert edges(document([1030, POINT, *text], title=2), 5) == [0, 2, 6, 10]


def test_no_span_is_over_the_limit_and_none_splits_a_word() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        ids = draw.choice([1020, 1021, 1400, 1401, POINT], draw.integers(20, 300), p=[0.3, 0.3, 0.15, 0.15, 0.1])
        passage = document([1020, *ids])
        for short in (0.0, 0.5):
            cut = edges(passage, 30, generator=generator(), short=short)
            assert max(np.diff(cut)) <= 30
            assert passage.text_starts[cut[:-1]].all()


def test_short_spans_end_with_the_sentence_that_exceeds_their_length() -> None:
    passage = sentences(*[5] * 2000)
    usual = np.diff(edges(passage, 40))
    assert set(usual) == {40}
    spans = np.diff(edges(passage, 40, generator=generator(), short=0.15))
    assert set(spans[:-1]) <= set(range(5, 41, 5))
    # Lengths drawn from 35 to 40, 6 of 39, are of usual spans too.
    share = np.mean(spans < 40)
    assert share == pytest.approx(0.15 * 33 / 39, abs=0.05)


def test_documents_of_eight_tokens_are_examples() -> None:
    documents, lengths = span_examples(np.array([0, 7, 8, 9, 38, 39, 500]), 40)
    assert documents.tolist() == [2, 3, 4, 5, 6]
    assert lengths.tolist() == [6, 7, 21, 40, 40]


# Pairs


def texts(batch: dict[str, Tensor]) -> list[list[int]]:
    """Return the clean texts of a batch without the special tokens around them."""
    clean = batch["input_ids"].flatten().clone()
    clean[batch["masked_positions"]] = batch["masked_ids"]
    rows = clean.view_as(batch["input_ids"])
    return [row[1 : length - 1].tolist() for row, length in zip(rows, batch["attention_mask"].sum(1), strict=True)]


def span_texts(passage: Passage, most: int) -> list[list[int]]:
    spans = cut_spans(passage, VOCABULARY, most)
    return [spans.span(number).text.tolist() for number in range(len(spans))]


def test_cocondenser_draws_two_different_spans_in_any_order() -> None:
    passage = sentences(8, 8, 8, 8)
    spans = span_texts(passage, 8)
    rows = texts(CoCondenser().collate([passage] * 1200, VOCABULARY, 10, generator()))
    pairs = Counter((spans.index(rows[row]), spans.index(rows[row + 1])) for row in range(0, len(rows), 2))
    assert sum(pairs.values()) == 1200
    assert len(pairs) == 12, "each ordered pair of different spans"
    assert min(pairs.values()) > 60


def test_rows_are_equal_for_every_document() -> None:
    passages = [document([]), document([1020]), sentences(3), sentences(*[5] * 40)]
    for objective in (CoCondenser(), CoTMAE()):
        batch = objective.collate(passages, VOCABULARY, 24, generator())
        assert len(batch["input_ids"]) == 8
        assert batch["input_ids"].shape[1] <= 24
        assert batch["attention_mask"].sum(1)[:4].tolist() in ([2, 2, 3, 2], [2, 2, 2, 3], [2, 2, 3, 3])


def contexts(kind: Any, passage: Passage, most: int, draws: int = 600) -> list[tuple[list[int], list[int]]]:
    """Return anchors and contexts that CoT-MAE draws, without short spans."""
    objective = CoTMAE(context=kind, short_spans=0.0)
    rows = texts(objective.collate([passage] * draws, VOCABULARY, most + 2, generator()))
    return list(zip(rows[::2], rows[1::2], strict=True))


def test_nearby_is_the_span_before_or_behind() -> None:
    passage = sentences(8, 8, 8, 8)
    spans = span_texts(passage, 8)
    pairs = Counter((spans.index(anchor), spans.index(context)) for anchor, context in contexts("nearby", passage, 8))
    assert set(pairs) == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)}
    assert pairs[0, 1] == pytest.approx(150, abs=40)
    assert pairs[1, 0] == pytest.approx(75, abs=30)


def test_a_random_span_is_any_other_within_a_hundred() -> None:
    passage = sentences(8, 8, 8, 8)
    spans = span_texts(passage, 8)
    drawn = contexts("random_sampled", passage, 8)
    pairs = Counter((spans.index(anchor), spans.index(context)) for anchor, context in drawn)
    assert len(pairs) == 12
    assert all(first != second for first, second in pairs)
    far = sentences(*[3] * 250)
    numbers = {tuple(span): number for number, span in enumerate(span_texts(far, 3))}
    distances = [abs(numbers[tuple(a)] - numbers[tuple(b)]) for a, b in contexts("random_sampled", far, 3)]
    assert 90 < max(distances) <= 100
    assert min(distances) >= 1


def test_an_overlap_shares_at_most_half_of_the_anchors_sentences() -> None:
    passage = sentences(*[4] * 10)  # spans of 16, 16 and 8 tokens: four, four and two sentences
    tokens = passage.text.tolist()
    drawn = {(tuple(anchor), tuple(context)) for anchor, context in contexts("overlap", passage, 16)}
    expected = set()
    for first, end in ((0, 16), (16, 32)):
        for shared in (4, 8):
            start = end - shared
            expected.add((tuple(tokens[first:end]), tuple(tokens[start : start + 16])))
    expected.add((tuple(tokens[32:]), tuple(tokens[20:36])))
    assert drawn == expected


def test_an_overlap_of_one_sentence_holds_all_of_it() -> None:
    passage = sentences(6, 6)
    tokens = passage.text.tolist()
    drawn = {(len(anchor), tuple(context)) for anchor, context in contexts("overlap", passage, 10)}
    assert drawn == {(6, tuple(tokens[:10])), (6, tuple(tokens[2:]))}
    whole = {(len(anchor), tuple(context)) for anchor, context in contexts("overlap", passage, 20)}
    assert whole == {(6, tuple(tokens))}


def test_an_overlap_is_cut_between_words() -> None:
    passage = document([1020, 1021, POINT, 1022, 1400, 1401, 1023, POINT])
    drawn = {tuple(context) for anchor, context in contexts("overlap", passage, 5) if anchor[-1] == POINT}
    assert (1020, 1021, POINT) in drawn, "the next word of three tokens is left out"


def test_mixed_contexts_are_of_each_kind_equally_often() -> None:
    passage = sentences(*[8] * 200)
    objective = CoTMAE(short_spans=0.0)
    spans = cut_spans(passage, VOCABULARY, 16)
    draw = generator()
    kinds = Counter(kind_of(spans, objective, draw) for _ in range(900))
    assert set(kinds) == set(CONTEXTS)
    for count in kinds.values():
        assert count == pytest.approx(300, abs=50)


def kind_of(spans: Spans, objective: CoTMAE, draw: torch.Generator) -> str:
    """Return the kind of a context of the tenth span; the few random spans beside it count as nearby."""
    context = objective._draw_context(spans, 10, 16, draw).text.tolist()
    if context in (spans.span(9).text.tolist(), spans.span(11).text.tolist()):
        return "nearby"
    if context[0] in spans.span(10).text:
        return "overlap"
    return "random_sampled"


def test_pairs_repeat_from_the_generators_seed_alone() -> None:
    passages = [sentences(*[5] * 30), sentences(4, 4)]
    for objective in (CoCondenser(), CoTMAE()):
        torch.manual_seed(1)
        first = objective.collate(passages, VOCABULARY, 24, generator(5))
        torch.manual_seed(2)
        again = objective.collate(passages, VOCABULARY, 24, generator(5))
        assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
