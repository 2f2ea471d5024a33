"""A contrastive step in groups of like length, with a gradient cache, and shared by several processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import torch
import works
from batches import rivals_of, texts_of
from processes import launch
from torch import Tensor
from torch.nn import functional

from retrobench.config import Reading, Representations
from retrobench.model.encoder import Encoder
from retrobench.model.loading import load_backbone
from retrobench.objective import Vocabulary
from retrobench.training.contrastive import Contrastive
from retrobench.training.examples import Candidates, ContrastiveBatch, ContrastiveBatches, Examples, TextGroups

VOCABULARY = Vocabulary(153, 0, 2, 3, 4, frozenset({0, 1, 2, 3, 4}))
ROWS = np.arange(12)
READING = Reading(query_length=12, passage_length=40)


class Case(NamedTuple):
    """A tiny base, tokenised texts, and training examples of them."""

    base: Path
    queries: Path
    documents: Path
    dataset: str
    examples: Examples


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    collection = tiny.make(tmp_path_factory.mktemp("contrastive"))
    name = f"{collection.data}:train"
    texts = works.training_texts(works.work(collection.store, name, base=collection.base), name)
    return Case(collection.base, texts.queries.path, texts.documents.path, name, texts.examples("query"))


def round_of(examples: Examples, gradient_cache: int) -> ContrastiveBatches:
    candidates = np.asarray([[(5 * row + step) % 58 for step in range(4)] for row in range(len(examples))], np.int32)
    return ContrastiveBatches(examples, VOCABULARY, READING, Candidates(candidates), 3, gradient_cache=gradient_cache)


def batch_of(examples: Examples, gradient_cache: int, rows: np.ndarray = ROWS) -> dict[str, ContrastiveBatch]:
    return round_of(examples, gradient_cache).collate(rows, torch.Generator().manual_seed(3))


def model_of(base: Path, representation: str, gradient_cache: int = 0) -> Contrastive:
    torch.manual_seed(1)
    backbone, _ = load_backbone(base, trains=True)
    encoder = Encoder(backbone, representation, Representations(dense=8, terms=12))
    return Contrastive(encoder, 1.0, gradient_cache=gradient_cache).train()


def without_dropout(base: Path, representation: str) -> Contrastive:
    model = model_of(base, representation)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def stepped(model: Contrastive, batch: dict[str, ContrastiveBatch]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and all gradients, dropout drawn from one seed."""
    torch.manual_seed(7)
    out = model(0.0, **batch)
    out.losses["contrastive"].backward()
    return out.losses["contrastive"].detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_groups_hold_the_same_texts_with_less_padding(case: Case) -> None:
    whole, split = (batch_of(case.examples, tokens)["batch"] for tokens in (10**6, 160))
    assert len(whole.passages.groups) == 1 and len(split.passages.groups) > 4
    for one, other in zip(whole[:2], split[:2], strict=True):
        assert texts_of(one) == texts_of(other)
    assert torch.equal(rivals_of(whole), rivals_of(split))

    def padded(batch: ContrastiveBatch) -> list[int]:
        return [group.input_ids.numel() for texts in batch[:2] for group in texts.groups]

    real = sum(map(len, texts_of(whole.passages))) + sum(map(len, texts_of(whole.queries)))
    assert real <= sum(padded(split)) < sum(padded(whole))
    assert max(padded(split)) <= 160


@pytest.mark.parametrize("representation", ["cls", "mean", "terms", "cls+terms"])
def test_groups_change_neither_loss_nor_gradients(representation: str, case: Case) -> None:
    steps = []
    for tokens in (10**6, 160):
        steps.append(stepped(without_dropout(case.base, representation), batch_of(case.examples, tokens)))
    (loss, slopes), (other, others) = steps
    torch.testing.assert_close(loss, other, rtol=1e-6, atol=1e-6)
    assert slopes.keys() == others.keys() and len(slopes) > 20
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, others[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("representation", ["cls", "cls+terms"])
def test_the_gradient_cache_changes_no_bit(representation: str, case: Case) -> None:
    """Dropout included: what is made again is drawn again."""
    batch = batch_of(case.examples, 160)
    loss, slopes = stepped(model_of(case.base, representation), batch)
    cached, again = stepped(model_of(case.base, representation, gradient_cache=160), batch)
    assert torch.equal(loss, cached) and slopes.keys() == again.keys()
    assert all(torch.equal(slope, again[name]) for name, slope in slopes.items())


def saved_bytes(model: Contrastive, batch: dict[str, ContrastiveBatch]) -> int:
    """Bytes that a forward keeps for the way back, beside the parameters."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameter_addresses = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(0.0, **batch)
    del out
    return sum(size for address, size in sizes.items() if address not in parameter_addresses)


def test_the_gradient_cache_keeps_little(case: Case) -> None:
    batch = batch_of(case.examples, 160)
    assert (
        saved_bytes(model_of(case.base, "cls", gradient_cache=160), batch)
        < saved_bytes(model_of(case.base, "cls"), batch) / 10
    )


def test_a_query_without_negatives_leaves_columns_empty(case: Case) -> None:
    examples = case.examples
    none = np.full((len(examples), 4), -1, np.int32)
    none[0] = [50, 51, 52, 53]
    round_ = ContrastiveBatches(examples, VOCABULARY, READING, Candidates(none), 3)
    batch = round_.collate(np.arange(4), torch.Generator().manual_seed(0))
    documents = batch["batch"].documents
    assert documents.shape == (16,) and documents[7:].eq(-1).all()
    model = model_of(case.base, "cls")
    out = model(0.0, **batch)
    assert out.losses["contrastive"].isfinite() and out.metrics["negatives"].item() <= 6
    assert model.negatives == pytest.approx(out.metrics["negatives"].item())


# Several processes


def test_processes_share_their_passages(case: Case, tmp_path: Path) -> None:
    """Two real processes of six queries each: loss and gradients are those of one process with twelve."""
    words = [
        sys.executable,
        str(Path(__file__).with_name("one_of_two.py")),
        *map(str, case[:4]),
        str(tmp_path),
    ]
    for process in launch(words):
        assert process.returncode == 0, process.stderr
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(slope, two["gradients"][name]) for name, slope in one["gradients"].items())

    model = without_dropout(case.base, "cls")
    one_half, other_half = (batch_of(case.examples, 160, rows)["batch"] for rows in (ROWS[:6], ROWS[6:]))
    loss, slopes = stepped(model, {"batch": together(one_half, other_half)})
    mean = (one["losses"]["contrastive"] + two["losses"]["contrastive"]) / 2
    assert mean == pytest.approx(loss.item(), rel=1e-5)
    assert one["gradients"].keys() == slopes.keys() and len(slopes) > 20
    for name, slope in slopes.items():
        torch.testing.assert_close(one["gradients"][name], slope, rtol=1e-4, atol=1e-5)
    assert (one["negatives"] + two["negatives"]) / 2 == pytest.approx(model.negatives)
    assert model.negatives > 40, "of 47 others in twelve times four"


def together(one: ContrastiveBatch, two: ContrastiveBatch) -> ContrastiveBatch:
    """Two batches as one: the positives of both first, then their negatives."""
    width = max(one.answers.shape[1], two.answers.shape[1])
    answers = [functional.pad(b.answers, (0, width - b.answers.shape[1]), value=-1) for b in (one, two)]
    documents = torch.cat([one.documents[:6], two.documents[:6], one.documents[6:], two.documents[6:]])
    return ContrastiveBatch(
        queries=joined(one.queries, two.queries, len(one.queries.order)),
        passages=joined(one.passages, two.passages, 6),
        documents=documents,
        answers=torch.cat(answers),
    )


def joined(one: TextGroups, two: TextGroups, count: int) -> TextGroups:
    """The first `count` texts of both, then the others of both."""
    first, second = one.order, len(one.order) + two.order
    order = torch.cat([first[:count], second[:count], first[count:], second[count:]])
    return TextGroups((*one.groups, *two.groups), order)
