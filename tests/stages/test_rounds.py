"""A round of fine-tuning: examples, hard negatives, a teacher's scores, and the losses."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recipe as recipes
import torch
import works
from batches import Fixed, fixed, rivals_of, texts_of
from torch import nn

from retrobench.config import Distil, Reading
from retrobench.errors import RetrobenchError
from retrobench.objective import Vocabulary
from retrobench.stages.inputs import open_teacher
from retrobench.stages.teach import read_scores
from retrobench.training.contrastive import Contrastive, distillation
from retrobench.training.examples import Candidates, ContrastiveBatches, Examples, grouped

VOCABULARY = Vocabulary(153, 0, 2, 3, 4, frozenset({0, 1, 2, 3, 4}))
READING = Reading(query_length=12, passage_length=40)
TRAIN = "msmarco-titled:train"  # 50 queries, 10 of which have two positives
Read = Callable[..., Examples]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """Return a function that reads the training examples of the recipes' collection."""
    recipe = recipes.make(tmp_path_factory.mktemp("recipe"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETROBENCH_DATA", str(recipe.data))
        work = works.work(recipe.tiny.store, TRAIN, base=recipe.tiny.base)
        texts = works.training_texts(work, TRAIN, "[SEP]")
        yield lambda kind="judgement": texts.examples(kind)


def rows_of(examples: Examples, query_id: str) -> list[int]:
    """Return the rows of a query's examples."""
    query_rows = enumerate(examples.query_rows)
    return [row for row, query in query_rows if examples.queries.ids[query] == query_id]


def test_examples_are_queries_or_judgements(examples: Read) -> None:
    queries, judgements = examples("query"), examples("judgement")
    assert (len(queries), len(judgements)) == (50, 60)
    (query_row,) = rows_of(queries, "q5")
    judgement_rows = rows_of(judgements, "q5")
    positives = queries.positives[query_row].tolist()
    assert len(positives) == len(judgement_rows) == 2
    for row, positive in zip(judgement_rows, positives, strict=True):
        assert judgements.positives[row].tolist() == [positive]
        assert judgements.relevant[row].tolist() == positives
    assert queries.lengths(np.asarray([query_row]))[0] == judgements.lengths(np.asarray(judgement_rows))[0]


def candidate_rows(examples: Examples, depth: int = 4) -> np.ndarray:
    """Return no candidates for q1, one for q2, else four that do not answer the query."""
    table = np.full((len(examples), depth), -1, np.int32)
    for row, query in enumerate(examples.query_rows):
        irrelevant = [document for document in range(7 * query % 50, 58) if document not in examples.relevant[row]]
        count = {"q1": 0, "q2": 1}.get(examples.queries.ids[query], depth)
        table[row, :count] = irrelevant[:count]
    return table


def scored_candidates(examples: Examples) -> Candidates:
    """Return candidates with a different score for each pair. Example 3 has no score for its positive."""
    rows = candidate_rows(examples)
    numbers = np.arange(len(examples), dtype=np.float32)[:, None]
    scores = np.where(rows >= 0, rows + 1000 * numbers + 0.5, np.nan).astype(np.float32)
    positive_scores = -numbers
    positive_scores[3] = np.nan
    return Candidates(rows, scores, positive_scores)


def test_a_query_with_too_few_negatives_repeats_them(examples: Read) -> None:
    queries, draw = examples("query"), torch.Generator().manual_seed(0)
    (without,), (with_one,) = rows_of(queries, "q1"), rows_of(queries, "q2")
    candidates = Candidates(candidate_rows(queries))
    maker = ContrastiveBatches(queries, VOCABULARY, READING, candidates, 3)
    assert maker._draw_negatives(without, draw) == ([], [])
    assert maker._draw_negatives(with_one, draw)[0] == [candidates.rows[with_one][0]] * 3
    assert len(set(maker._draw_negatives(0, draw)[0])) == 3
    batch = maker.collate(np.asarray([without]), draw)["batch"]
    assert len(texts_of(batch.passages)) == 1
    assert batch.documents.tolist()[1:] == [-1, -1, -1]


def test_a_query_with_too_few_negatives_gets_random_ones(examples: Read) -> None:
    queries, draw = examples("query"), torch.Generator().manual_seed(0)
    (without,), (with_one,) = rows_of(queries, "q1"), rows_of(queries, "q2")
    candidates = Candidates(candidate_rows(queries))
    maker = ContrastiveBatches(queries, VOCABULARY, READING, candidates, 3, "random")
    assert maker._draw_negatives(with_one, draw)[0][0] == candidates.rows[with_one][0]
    draws = {tuple(maker._draw_negatives(without, draw)[0]) for _ in range(5)}
    assert len(draws) == 5
    for negatives in draws:
        assert len(negatives) == 3
        assert all(0 <= row < 60 for row in negatives)


def test_a_query_without_negatives_is_dropped(examples: Read) -> None:
    queries = examples("query")
    (without,) = rows_of(queries, "q1")
    maker = ContrastiveBatches(queries, VOCABULARY, READING, Candidates(candidate_rows(queries)), 3, "drop")
    assert without not in maker.rows
    assert len(maker.rows) == len(maker.lengths) == 49
    assert maker.names(np.asarray([0, 1])) == ["query q0", "query q2"]
    batch = maker.collate(np.asarray([1]), torch.Generator().manual_seed(0))["batch"]
    assert len(texts_of(batch.passages)) == 1 + 3


def test_a_query_does_not_compete_with_its_second_positive(examples: Read) -> None:
    """RetroMAE's code differs: its judgements of one query compete."""
    maker = ContrastiveBatches(examples(), VOCABULARY, READING)
    assert maker.examples.query_rows[:2].tolist() == [0, 0]
    batch = maker.collate(np.asarray([0, 1, 2]), torch.Generator().manual_seed(0))["batch"]
    assert rivals_of(batch).tolist() == [[True, False, True], [False, True, True], [True, True, True]]


def test_the_distilled_round_uses_scored_examples(examples: Read) -> None:
    judgements = examples()
    maker = ContrastiveBatches(judgements, VOCABULARY, READING, scored_candidates(judgements), 3)
    without_score = {3, *rows_of(judgements, "q1")}
    assert maker.rows.tolist() == [row for row in range(60) if row not in without_score]


def test_a_batch_of_the_distilled_round(examples: Read) -> None:
    judgements = examples()
    maker = ContrastiveBatches(judgements, VOCABULARY, READING, scored_candidates(judgements), 3)
    batch = maker.collate(np.arange(20), torch.Generator().manual_seed(0))["batch"]
    group, teacher, passages = batch.group, batch.teacher, texts_of(batch.passages)
    assert group is not None and teacher is not None
    assert len(passages) == 20 * 4
    assert group.shape == teacher.shape == (20, 4)
    assert sorted(group.flatten().tolist()) == list(range(80))
    for query, row in enumerate(maker.rows[:20].tolist()):
        positive, *negatives = [passages[column] for column in group[query].tolist()]
        positive_score, *scores = teacher[query].tolist()
        assert positive == packed(judgements, judgements.positives[row][0])
        assert positive_score == -row
        assert negatives == [packed(judgements, int(score - 1000 * row)) for score in scores]


def packed(examples: Examples, row: int) -> tuple[int, ...]:
    """Return a document as token ids with [CLS] and [SEP]."""
    passage = examples.documents[row]
    ids = [*passage.title.tolist(), *passage.text.tolist()]
    return (2, *ids[:38], 3)


def test_grouped_by_hand() -> None:
    keys = np.asarray([2, 0, 2, 2])
    values = np.asarray([7, 8, 9, 6], np.int32)
    expected = [
        [8, -1, -1],
        [-1, -1, -1],
        [7, 9, 6],
        [-1, -1, -1],
    ]
    assert grouped(keys, 4, values, -1).tolist() == expected
    assert grouped(np.zeros(0, np.int64), 2, np.zeros(0, np.float32), np.nan).shape == (2, 1)


# The loss


STUDENT = torch.tensor([[1.0, 3.0, 2.0], [0.0, 2.0, 0.0]])
TEACHER = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]])


def softmax(scores: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(score / temperature) for score in scores]
    return [exponential / sum(exponentials) for exponential in exponentials]


def divergence(teacher: list[float], student: list[float]) -> float:
    """Return the KL divergence of two distributions."""
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # torch announces a change of "mean", so ours is a sum
@pytest.mark.parametrize(
    ("loss", "reduction", "divisor"), [("element-mean", "mean", 6), ("batch-mean", "batchmean", 2)]
)
def test_distillation_by_hand(loss: Any, reduction: str, divisor: int) -> None:
    total = 0.0
    for student, teacher in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        total += divergence(softmax(teacher), softmax(student, temperature=2))
    computed = distillation(STUDENT, TEACHER, Distil(loss=loss, temperature=2.0)).item()
    assert computed == pytest.approx(total / divisor, rel=1e-6)
    torch_loss = nn.KLDivLoss(reduction=reduction)
    expected = torch_loss(torch.log_softmax(STUDENT / 2, 1), torch.softmax(TEACHER, 1))
    assert computed == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", ["element-mean", "batch-mean"])
def test_a_student_equal_to_its_teacher_has_no_loss(loss: Any) -> None:
    assert distillation(TEACHER, TEACHER, Distil(loss=loss)).item() == pytest.approx(0, abs=1e-7)


def test_the_distilled_rounds_loss_has_two_terms() -> None:
    settings = Distil(loss="batch-mean", temperature=2.0, contrastive=0.5)
    model = Contrastive(Fixed(), 1.0, settings)  # type: ignore[arg-type]
    queries = torch.tensor([[1.0], [2.0]])
    passages = torch.tensor([[1.0], [0.0], [3.0], [2.0], [0.0], [1.0]])
    group = torch.tensor([[0, 2, 3], [1, 4, 5]])
    step = model(0.0, fixed(queries, passages, [[0], [1]], group=group, teacher=TEACHER))
    student = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 2.0]])
    expected = distillation(student, TEACHER, settings).item()
    assert step.losses["distillation"].item() == pytest.approx(expected)
    scores = np.asarray([[1, 0, 3, 2, 0, 1], [2, 0, 6, 4, 0, 2]], float)
    answer_scores = scores[[0, 1], [0, 1]]
    info_nce = np.mean(np.log(np.exp(scores).sum(1)) - answer_scores)
    assert step.losses["contrastive"].item() == pytest.approx(0.5 * info_nce)


# Scores from a file

LINES = "query-id\tcorpus-id\tscore\nq0\td1\t1.5\nq3\td2\t-2\nq0\td2\t0.25\nnobody\td2\t1\nq0\tnowhere\t1\n"


@pytest.mark.parametrize("name", ["scores.tsv", "scores.tsv.gz"])
def test_scores_of_a_file(name: str, examples: Read, tmp_path: Path) -> None:
    judgements = examples()
    positive_id = judgements.documents.ids[judgements.positives[1][0]]
    content = f"{LINES}q0\t{positive_id}\t9\n".encode()
    if name.endswith(".gz"):
        content = gzip.compress(content)
    (tmp_path / name).write_bytes(content)
    candidates = read_scores(tmp_path / name, judgements)
    assert candidates.scores is not None and candidates.positive_scores is not None
    row = {document: row for row, document in enumerate(judgements.documents.ids)}
    assert candidates.rows[0].tolist() == candidates.rows[1].tolist() == [row["d1"], row["d2"]]
    assert candidates.scores[1].tolist() == [1.5, 0.25]
    assert np.isnan(candidates.positive_scores[0, 0])
    assert candidates.positive_scores[1, 0] == 9.0
    assert candidates.rows[rows_of(judgements, "q3")[0]].tolist() == [row["d2"], -1]
    # Only one judgement has a score for its positive.
    assert ContrastiveBatches(judgements, VOCABULARY, READING, candidates, 2).rows.tolist() == [1]


@pytest.mark.parametrize("line", ["q1\td1", "q1\td1\thigh", "q1\td1\tnan"])
def test_a_faulty_line_of_scores_is_named(line: str, examples: Read, tmp_path: Path) -> None:
    file = tmp_path / "scores.tsv"
    file.write_text(f"{LINES}{line}\n")
    with pytest.raises(RetrobenchError, match=r"scores\.tsv, line 7: query-id, corpus-id and a finite score"):
        read_scores(file, examples())


def test_scores_need_a_header(examples: Read, tmp_path: Path) -> None:
    file = tmp_path / "scores.tsv"
    file.write_text(LINES.partition("\n")[2])
    with pytest.raises(RetrobenchError, match=r"scores\.tsv has no header; .*query-id, corpus-id, score"):
        read_scores(file, examples())


def test_scores_without_a_positive_leave_no_query(examples: Read, tmp_path: Path) -> None:
    judgements = examples()
    file = tmp_path / "scores.tsv"
    file.write_text(LINES)
    with pytest.raises(RetrobenchError, match="No training query"):
        ContrastiveBatches(judgements, VOCABULARY, READING, read_scores(file, judgements), 2)


def test_a_teacher_that_cannot_be_used(tmp_path: Path) -> None:
    recipes.write_teacher(tmp_path / "two", labels=2)
    with pytest.raises(RetrobenchError, match=r"two' gives 2 numbers for a pair; give a cross-encoder with one\."):
        open_teacher(str(tmp_path / "two"))
    recipes.write_teacher(tmp_path / "one", labels=1)
    assert open_teacher(str(tmp_path / "one")).path == tmp_path / "one"
    (tmp_path / "one" / "model.safetensors").rename(tmp_path / "one" / "pytorch_model.bin")
    with pytest.raises(RetrobenchError, match="holds no safetensors, and nothing pickled is loaded"):
        open_teacher(str(tmp_path / "one"))
    (tmp_path / "one" / "config.json").unlink()
    with pytest.raises(RetrobenchError, match=r"holds no config\.json that can be read; give a cross-encoder\."):
        open_teacher(str(tmp_path / "one"))
