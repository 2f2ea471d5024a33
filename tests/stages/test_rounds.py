"""A round of fine-tuning: examples, hard negatives, a teacher's scores, and the losses."""

from __future__ import annotations

import gzip
import json
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
from retrobench.training.batches import Shard
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
    query = examples.queries.ids.index(query_id)
    return np.flatnonzero(examples.query_rows == query).tolist()


def row_of(examples: Examples, query_id: str) -> int:
    """Return the row of a query's only example."""
    (row,) = rows_of(examples, query_id)
    return row


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_examples_are_queries_or_judgements(examples: Read) -> None:
    queries = examples("query")
    judgements = examples("judgement")
    assert len(queries) == 50
    assert len(judgements) == 60

    query_row = row_of(queries, "q5")
    judgement_rows = rows_of(judgements, "q5")
    positives = queries.positives[query_row].tolist()
    assert len(positives) == 2
    for row, positive in zip(judgement_rows, positives, strict=True):
        assert judgements.positives[row].tolist() == [positive]
        assert judgements.relevant[row].tolist() == positives
    query_lengths = queries.lengths(np.asarray([query_row]))
    judgement_lengths = judgements.lengths(np.asarray(judgement_rows))
    assert query_lengths[0] == judgement_lengths[0]


def candidate_rows(examples: Examples, depth: int = 4) -> np.ndarray:
    """Return no candidates for q1, one for q2, else four that do not answer the query."""
    counts = {"q1": 0, "q2": 1}
    table = np.full((len(examples), depth), -1, np.int32)
    for row, query in enumerate(examples.query_rows):
        documents = np.arange(7 * query % 50, 58)
        irrelevant = np.setdiff1d(documents, examples.relevant[row])
        count = counts.get(examples.queries.ids[query], depth)
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


def query_batches(queries: Examples, too_few: Any = "repeat") -> ContrastiveBatches:
    """Return batches of queries with three negatives each."""
    candidates = Candidates(candidate_rows(queries))
    return ContrastiveBatches(queries, VOCABULARY, READING, candidates, 3, too_few)


def test_a_query_with_too_few_negatives_repeats_them(examples: Read) -> None:
    queries = examples("query")
    batches = query_batches(queries)
    draw = seeded()
    without = row_of(queries, "q1")
    with_one = row_of(queries, "q2")
    only_candidate = candidate_rows(queries)[with_one][0]
    assert batches._draw_negatives(without, draw) == ([], [])
    repeated, _ = batches._draw_negatives(with_one, draw)
    assert repeated == [only_candidate] * 3
    distinct, _ = batches._draw_negatives(0, draw)
    assert len(set(distinct)) == 3

    batch = batches.collate(np.asarray([without]), draw)
    assert len(texts_of(batch.passages)) == 1
    assert batch.documents.tolist()[1:] == [-1, -1, -1]


def test_a_query_with_too_few_negatives_gets_random_ones(examples: Read) -> None:
    queries = examples("query")
    batches = query_batches(queries, "random")
    draw = seeded()
    without = row_of(queries, "q1")
    with_one = row_of(queries, "q2")
    only_candidate = candidate_rows(queries)[with_one][0]
    negatives, _ = batches._draw_negatives(with_one, draw)
    assert negatives[0] == only_candidate

    draws = set()
    for _ in range(5):
        negatives, _ = batches._draw_negatives(without, draw)
        assert len(negatives) == 3
        assert min(negatives) >= 0
        assert max(negatives) < 60
        draws.add(tuple(negatives))
    assert len(draws) == 5


def test_a_query_without_negatives_is_dropped(examples: Read) -> None:
    queries = examples("query")
    batches = query_batches(queries, "drop")
    assert row_of(queries, "q1") not in batches.rows
    assert len(batches.rows) == 49
    assert len(batches.lengths) == 49
    assert batches.names(np.asarray([0, 1])) == ["query q0", "query q2"]
    batch = batches.collate(np.asarray([1]), seeded())
    assert len(texts_of(batch.passages)) == 1 + 3


def test_a_query_does_not_compete_with_its_second_positive(examples: Read) -> None:
    """RetroMAE's code differs: its judgements of one query compete."""
    batches = ContrastiveBatches(examples(), VOCABULARY, READING)
    assert batches.examples.query_rows[:2].tolist() == [0, 0]
    batch = batches.collate(np.asarray([0, 1, 2]), seeded())
    assert rivals_of(batch).tolist() == [
        [True, False, True],
        [False, True, True],
        [True, True, True],
    ]


def test_the_distilled_round_uses_scored_examples(examples: Read) -> None:
    judgements = examples()
    batches = ContrastiveBatches(judgements, VOCABULARY, READING, scored_candidates(judgements), 3)
    without_score = [3, *rows_of(judgements, "q1")]
    expected = np.delete(np.arange(60), without_score)
    assert batches.rows.tolist() == expected.tolist()


def test_a_batch_of_the_distilled_round(examples: Read) -> None:
    judgements = examples()
    batches = ContrastiveBatches(judgements, VOCABULARY, READING, scored_candidates(judgements), 3)
    batch = batches.collate(np.arange(20), seeded())
    passages = texts_of(batch.passages)
    assert batch.group is not None
    assert batch.teacher is not None
    assert len(passages) == 20 * 4
    assert batch.group.shape == (20, 4)
    assert batch.teacher.shape == (20, 4)
    assert sorted(batch.group.flatten().tolist()) == list(range(80))

    rows = batches.rows[:20].tolist()
    for row, columns, scores in zip(rows, batch.group.tolist(), batch.teacher.tolist(), strict=True):
        positive_column, *negative_columns = columns
        positive_score, *negative_scores = scores
        positive = judgements.positives[row][0]
        assert passages[positive_column] == packed(judgements, positive)
        assert positive_score == -row
        for column, score in zip(negative_columns, negative_scores, strict=True):
            negative = int(score - 1000 * row)
            assert passages[column] == packed(judgements, negative)


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
    """Return the probabilities of scores."""
    exponentials = [math.exp(score / temperature) for score in scores]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def divergence(teacher: list[float], student: list[float]) -> float:
    """Return the KL divergence of two distributions."""
    total = 0.0
    for p, q in zip(teacher, student, strict=True):
        total += p * math.log(p / q)
    return total


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # torch announces a change of "mean", so ours is a sum
@pytest.mark.parametrize(
    ("loss", "reduction", "divisor"), [("element-mean", "mean", 6), ("batch-mean", "batchmean", 2)]
)
def test_distillation_by_hand(loss: Any, reduction: str, divisor: int) -> None:
    total = 0.0
    for student_scores, teacher_scores in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        student = softmax(student_scores, temperature=2)
        total += divergence(softmax(teacher_scores), student)
    settings = Distil(loss=loss, temperature=2.0)
    computed = distillation(STUDENT, TEACHER, settings).item()
    assert computed == pytest.approx(total / divisor, rel=1e-6)

    log_student = torch.log_softmax(STUDENT / 2, 1)
    expected = nn.KLDivLoss(reduction=reduction)(log_student, torch.softmax(TEACHER, 1))
    assert computed == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", ["element-mean", "batch-mean"])
def test_a_student_equal_to_its_teacher_has_no_loss(loss: Any) -> None:
    computed = distillation(TEACHER, TEACHER, Distil(loss=loss)).item()
    assert computed == pytest.approx(0, abs=1e-7)


def test_the_distilled_rounds_loss_has_two_terms() -> None:
    settings = Distil(loss="batch-mean", temperature=2.0, contrastive=0.5)
    model = Contrastive(Fixed(), 1.0, settings)  # type: ignore[arg-type]
    queries = torch.tensor([[1.0], [2.0]])
    passages = torch.tensor([[1.0], [0.0], [3.0], [2.0], [0.0], [1.0]])
    group = torch.tensor([[0, 2, 3], [1, 4, 5]])
    batch = fixed(queries, passages, [[0], [1]], group=group, teacher=TEACHER)
    step = model(0.0, [Shard(np.arange(len(batch.answers)), 0, batch, tokens=0.0)])

    student = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 2.0]])
    expected = distillation(student, TEACHER, settings).item()
    assert step.losses["distillation"].item() == pytest.approx(expected)

    scores = np.asarray([[1.0, 0, 3, 2, 0, 1], [2, 0, 6, 4, 0, 2]])
    answer_scores = np.asarray([1.0, 0.0])
    partition = np.exp(scores).sum(1)
    info_nce = np.mean(np.log(partition) - answer_scores)
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
    first = judgements.documents.ids.index("d1")
    second = judgements.documents.ids.index("d2")
    row_of_q3 = rows_of(judgements, "q3")[0]
    assert candidates.rows[0].tolist() == [first, second]
    assert candidates.rows[1].tolist() == [first, second]
    assert candidates.rows[row_of_q3].tolist() == [second, -1]
    assert candidates.scores is not None
    assert candidates.scores[1].tolist() == [1.5, 0.25]
    assert candidates.positive_scores is not None
    assert np.isnan(candidates.positive_scores[0, 0])
    assert candidates.positive_scores[1, 0] == 9.0
    # Only one judgement has a score for its positive.
    batches = ContrastiveBatches(judgements, VOCABULARY, READING, candidates, 2)
    assert batches.rows.tolist() == [1]


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
    candidates = read_scores(file, judgements)
    with pytest.raises(RetrobenchError, match="No training query"):
        ContrastiveBatches(judgements, VOCABULARY, READING, candidates, 2)


def test_a_teacher_that_cannot_be_used(tmp_path: Path) -> None:
    two_labels = tmp_path / "two"
    recipes.write_teacher(two_labels, labels=2)
    with pytest.raises(RetrobenchError, match=r"two' gives 2 numbers for a pair; give a cross-encoder with one\."):
        open_teacher(str(two_labels))

    teacher = tmp_path / "one"
    recipes.write_teacher(teacher, labels=1)
    assert open_teacher(str(teacher)).path == teacher
    weights = teacher / "model.safetensors"
    weights.rename(teacher / "model-00001-of-00001.safetensors")
    index = teacher / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"no.such.tensor": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(RetrobenchError, match=r"index\.json names 'no\.such\.tensor' in 'model-00001"):
        open_teacher(str(teacher))
    index.unlink()
    (teacher / "model-00001-of-00001.safetensors").rename(weights)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RetrobenchError, match=r"cannot be loaded: model\.safetensors is damaged"):
        open_teacher(str(teacher))
    (teacher / "model.safetensors").rename(teacher / "pytorch_model.bin")
    with pytest.raises(RetrobenchError, match="holds no safetensors, and nothing pickled is loaded"):
        open_teacher(str(teacher))
    (teacher / "config.json").unlink()
    with pytest.raises(RetrobenchError, match=r"holds no config\.json that can be read; give a cross-encoder\."):
        open_teacher(str(teacher))
