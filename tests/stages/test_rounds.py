"""What a round of fine-tuning is made of: examples, hard negatives, a teacher's scores, and the losses."""

from __future__ import annotations

import gzip
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
    """The training examples of the recipes' collection, of either kind."""
    made = recipes.make(tmp_path_factory.mktemp("recipe"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETROBENCH_DATA", str(made.data))
        texts = works.training_texts(works.work(made.tiny.store, TRAIN, base=made.tiny.base), TRAIN, "[SEP]")
        yield lambda kind="judgement": texts.examples(kind)


def of_query(examples: Examples, name: str) -> list[int]:
    return [at for at, row in enumerate(examples.query_rows) if examples.queries.ids[row] == name]


def test_examples_of_either_kind(examples: Read) -> None:
    queries, judgements = examples("query"), examples("judgement")
    assert (len(queries), len(judgements)) == (50, 60)
    (one,), two = of_query(queries, "q5"), of_query(judgements, "q5")
    assert len(two) == 2 == len(queries.positives[one])
    assert [judgements.positives[at].tolist() for at in two] == [[row] for row in queries.positives[one]]
    assert all(judgements.relevant[at].tolist() == queries.positives[one].tolist() for at in two)
    assert queries.lengths(np.asarray([one]))[0] == judgements.lengths(np.asarray(two))[0]


def hard(of: Examples, depth: int = 4) -> np.ndarray:
    """Candidates: none for q1, one for q2, else four that do not answer the query."""
    found = np.full((len(of), depth), -1, np.int32)
    for at, row in enumerate(of.query_rows):
        rest = [document for document in range(7 * row % 50, 58) if document not in of.relevant[at]]
        count = {"q1": 0, "q2": 1}.get(of.queries.ids[row], depth)
        found[at, :count] = rest[:count]
    return found


def taught(of: Examples) -> Candidates:
    """Scores that tell each pair apart."""
    rows = hard(of)
    scores = np.where(rows >= 0, rows + 1000 * np.arange(len(of))[:, None] + 0.5, np.nan).astype(np.float32)
    own = np.asarray([[-at] for at in range(len(of))], np.float32)
    own[3] = np.nan
    return Candidates(rows, scores, own)


def test_what_a_query_with_too_few_negatives_gets(examples: Read) -> None:
    of, draw = examples("query"), torch.Generator().manual_seed(0)
    (none,), (one,), found = of_query(of, "q1"), of_query(of, "q2"), Candidates(hard(of))
    repeat = ContrastiveBatches(of, VOCABULARY, READING, found, 3)
    assert repeat._draw_negatives(none, draw) == ([], [])
    assert repeat._draw_negatives(one, draw)[0] == [found.rows[one][0]] * 3
    assert len(set(repeat._draw_negatives(0, draw)[0])) == 3
    filled = ContrastiveBatches(of, VOCABULARY, READING, found, 3, "random")
    assert (
        len(filled._draw_negatives(none, draw)[0]) == 3
        and filled._draw_negatives(one, draw)[0][0] == found.rows[one][0]
    )
    drawn = [tuple(filled._draw_negatives(none, draw)[0]) for _ in range(5)]
    assert len(set(drawn)) == 5 and all(0 <= row < 60 for rows in drawn for row in rows)
    dropped = ContrastiveBatches(of, VOCABULARY, READING, found, 3, "drop")
    assert none not in dropped.rows and len(dropped.rows) == 49 == len(dropped.lengths)
    assert dropped.names(np.asarray([0, 1])) == ["query q0", "query q2"]
    assert len(texts_of(dropped.collate(np.asarray([1]), draw)["batch"].passages)) == 1 + 3
    lacking = repeat.collate(np.asarray([none]), draw)["batch"]
    assert len(texts_of(lacking.passages)) == 1 and lacking.documents.tolist()[1:] == [-1, -1, -1]


def test_a_querys_other_positive_is_no_negative(examples: Read) -> None:
    """Where each judgement is an example, RetroMAE's code lets them compete."""
    round_ = ContrastiveBatches(examples(), VOCABULARY, READING)
    assert round_.examples.query_rows[:2].tolist() == [0, 0]
    batch = round_.collate(np.asarray([0, 1, 2]), torch.Generator().manual_seed(0))["batch"]
    assert rivals_of(batch).tolist() == [[True, False, True], [False, True, True], [True, True, True]]


def test_a_batch_of_the_distilled_round(examples: Read) -> None:
    of = examples()
    found = taught(of)
    round_ = ContrastiveBatches(of, VOCABULARY, READING, found, 3)
    left = {*of_query(of, "q1"), 3}
    assert round_.rows.tolist() == [at for at in range(60) if at not in left], "a scored positive, a scored candidate"
    batch = round_.collate(np.arange(20), torch.Generator().manual_seed(0))["batch"]
    group, teacher, passages = batch.group, batch.teacher, texts_of(batch.passages)
    assert group is not None and teacher is not None
    assert len(passages) == 20 * 4 and group.shape == teacher.shape == (20, 4)
    assert sorted(group.flatten().tolist()) == list(range(80))
    for query, at in enumerate(round_.rows[:20].tolist()):
        own, *others = (passages[column] for column in group[query].tolist())
        assert own == packed(of, of.positives[at][0]) and teacher[query, 0] == -at
        assert others == [packed(of, int(score - 1000 * at)) for score in teacher[query, 1:].tolist()]


def packed(of: Examples, row: int) -> tuple[int, ...]:
    passage = of.documents[row]
    return (2, *[*passage.title.tolist(), *passage.text.tolist()][:38], 3)


def test_grouped_by_hand() -> None:
    table = grouped(np.asarray([2, 0, 2, 2]), 4, np.asarray([7, 8, 9, 6], np.int32), -1)
    assert table.tolist() == [[8, -1, -1], [-1, -1, -1], [7, 9, 6], [-1, -1, -1]]
    assert grouped(np.zeros(0, np.int64), 2, np.zeros(0, np.float32), np.nan).shape == (2, 1)


# The loss


STUDENT, TEACHER = torch.tensor([[1.0, 3.0, 2.0], [0.0, 2.0, 0.0]]), torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]])


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # that torch's "mean" is to change is why ours is a sum
@pytest.mark.parametrize(("loss", "reduction", "by"), [("element-mean", "mean", 6), ("batch-mean", "batchmean", 2)])
def test_distillation_by_hand(loss: Any, reduction: str, by: int) -> None:
    total = 0.0
    for student, teacher in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        q = [np.exp(value / 2) / sum(np.exp(other / 2) for other in student) for value in student]
        p = [np.exp(value) / sum(np.exp(other) for other in teacher) for value in teacher]
        total += sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    found = distillation(STUDENT, TEACHER, Distil(loss=loss, temperature=2.0))
    assert found.item() == pytest.approx(total / by, rel=1e-6)
    theirs = nn.KLDivLoss(reduction=reduction)(torch.log_softmax(STUDENT / 2, 1), torch.softmax(TEACHER, 1))
    assert found.item() == pytest.approx(theirs.item(), rel=1e-6)
    same = distillation(TEACHER, TEACHER, Distil(loss=loss))
    assert same.item() == pytest.approx(0, abs=1e-7)


def test_the_distilled_rounds_loss_is_both_parts() -> None:
    settings = Distil(loss="batch-mean", temperature=2.0, contrastive=0.5)
    model = Contrastive(Fixed(), 1.0, settings)  # type: ignore[arg-type]
    queries, passages = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [0.0], [3.0], [2.0], [0.0], [1.0]])
    group = torch.tensor([[0, 2, 3], [1, 4, 5]])
    out = model(0.0, fixed(queries, passages, [[0], [1]], group=group, teacher=TEACHER))
    student = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 2.0]])
    assert out.losses["distillation"].item() == pytest.approx(distillation(student, TEACHER, settings).item())
    scores = np.asarray([[1, 0, 3, 2, 0, 1], [2, 0, 6, 4, 0, 2]], float)
    by_hand = np.mean(np.log(np.exp(scores).sum(1)) - scores[[0, 1], [0, 1]])
    assert out.losses["contrastive"].item() == pytest.approx(0.5 * by_hand)


# Scores from a file

LINES = "query-id\tcorpus-id\tscore\nq0\td1\t1.5\nq3\td2\t-2\nq0\td2\t0.25\nnobody\td2\t1\nq0\tnowhere\t1\n"


@pytest.mark.parametrize("name", ["scores.tsv", "scores.tsv.gz"])
def test_scores_of_a_file(name: str, examples: Read, tmp_path: Path) -> None:
    of, file = examples(), tmp_path / name
    content = (LINES + f"q0\t{of.documents.ids[of.positives[1][0]]}\t9\n").encode()
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = read_scores(file, of)
    assert found.scores is not None and found.positive_scores is not None
    row_of = {document: row for row, document in enumerate(of.documents.ids)}
    assert found.rows[0].tolist() == found.rows[1].tolist() == [row_of["d1"], row_of["d2"]]
    assert found.scores[1].tolist() == [1.5, 0.25]
    assert found.positive_scores[:2, 0].tolist() == [pytest.approx(np.nan, nan_ok=True), 9.0]
    assert found.rows[of_query(of, "q3")[0]].tolist() == [row_of["d2"], -1]
    # Only the judgement whose positive has a score is left to learn from.
    assert ContrastiveBatches(of, VOCABULARY, READING, found, 2).rows.tolist() == [1]


def test_faulty_scores_are_named(examples: Read, tmp_path: Path) -> None:
    of, file = examples(), tmp_path / "scores.tsv"
    file.write_text(LINES.partition("\n")[2])
    with pytest.raises(
        RetrobenchError, match=r"scores\.tsv has no header; let its first line be query-id, corpus-id, s"
    ):
        read_scores(file, of)
    for line in ("q1\td1", "q1\td1\thigh", "q1\td1\tnan"):
        file.write_text(LINES + line + "\n")
        with pytest.raises(RetrobenchError, match=r"scores\.tsv, line 7: query-id, corpus-id and a finite score with"):
            read_scores(file, of)
    file.write_text(LINES)
    with pytest.raises(RetrobenchError, match="No training query is left that has a hard negative"):
        ContrastiveBatches(of, VOCABULARY, READING, read_scores(file, of), 2)


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
