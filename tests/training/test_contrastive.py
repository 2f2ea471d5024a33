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
from batches import rivals_of, shard_of, texts_of
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
    dataset_id: str
    examples: Examples


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Make a tiny collection with training examples."""
    collection = tiny.make(tmp_path_factory.mktemp("contrastive"))
    dataset_id = f"{collection.data}:train"
    work = works.work(collection.store, dataset_id, base=collection.base)
    texts = works.training_texts(work, dataset_id)
    return Case(collection.base, texts.queries.path, texts.documents.path, dataset_id, texts.examples("query"))


def batches_of(examples: Examples, candidates: np.ndarray, gradient_cache: int = 0) -> ContrastiveBatches:
    """Return the batches of a round with three negatives for each query."""
    return ContrastiveBatches(examples, VOCABULARY, READING, Candidates(candidates), 3, gradient_cache=gradient_cache)


def batch_of(examples: Examples, group_tokens: int, rows: np.ndarray = ROWS) -> ContrastiveBatch:
    """Return a batch in groups of at most `group_tokens` tokens."""
    first_candidates = 5 * np.arange(len(examples), dtype=np.int32)
    candidates = np.add.outer(first_candidates, np.arange(4, dtype=np.int32)) % 58
    batches = batches_of(examples, candidates, group_tokens)
    return batches.collate(rows, torch.Generator().manual_seed(3))


def model_of(base: Path, representation: str, gradient_cache: int = 0) -> Contrastive:
    """Return a contrastive model on the tiny base."""
    torch.manual_seed(1)
    backbone, _ = load_backbone(base, trains=True)
    encoder = Encoder(backbone, representation, Representations(dense=8, terms=12))
    return Contrastive(encoder, 1.0, gradient_cache=gradient_cache).train()


def without_dropout(base: Path, representation: str) -> Contrastive:
    """Return a contrastive model whose dropout never drops."""
    model = model_of(base, representation)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the gradients by parameter name."""
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad
    return gradients


def backward(model: Contrastive, batch: ContrastiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and all gradients; dropout is drawn from a fixed seed."""
    output = model(0.0, [shard_of(batch)])
    loss = output.losses["contrastive"]
    loss.backward()
    return loss.detach(), gradients_of(model)


def assert_gradients_are_close(gradients: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Assert that two backward passes give the same gradients within rounding."""
    assert gradients.keys() == expected.keys()
    assert len(gradients) > 20
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def assert_gradients_are_equal(gradients: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Assert that two backward passes give the same gradients bit for bit."""
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name])


def test_groups_hold_the_same_texts_with_less_padding(case: Case) -> None:
    whole = batch_of(case.examples, 10**6)
    split = batch_of(case.examples, 160)
    assert len(whole.passages.groups) == 1
    assert len(split.passages.groups) > 4
    queries = texts_of(whole.queries)
    passages = texts_of(whole.passages)
    assert texts_of(split.queries) == queries
    assert texts_of(split.passages) == passages
    assert torch.equal(rivals_of(whole), rivals_of(split))

    tokens = sum(len(text) for text in queries + passages)
    whole_sizes = padded_sizes(whole)
    split_sizes = padded_sizes(split)
    assert tokens <= sum(split_sizes) < sum(whole_sizes)
    assert max(split_sizes) <= 160


def padded_sizes(batch: ContrastiveBatch) -> list[int]:
    """Return the tokens of each group, with padding."""
    groups = [*batch.queries.groups, *batch.passages.groups]
    return [group.input_ids.numel() for group in groups]


@pytest.mark.parametrize("representation", ["cls", "mean", "terms", "cls+terms"])
def test_groups_change_neither_loss_nor_gradients(representation: str, case: Case) -> None:
    whole = batch_of(case.examples, 10**6)
    split = batch_of(case.examples, 160)
    whole_loss, whole_gradients = backward(without_dropout(case.base, representation), whole)
    split_loss, split_gradients = backward(without_dropout(case.base, representation), split)
    torch.testing.assert_close(whole_loss, split_loss, rtol=1e-6, atol=1e-6)
    assert_gradients_are_close(whole_gradients, split_gradients)


@pytest.mark.parametrize("representation", ["cls", "cls+terms"])
def test_the_gradient_cache_changes_no_bit(representation: str, case: Case) -> None:
    """Embed texts again with the same dropout."""
    batch = batch_of(case.examples, 160)
    plain_model = model_of(case.base, representation)
    cached_model = model_of(case.base, representation, gradient_cache=160)
    loss, gradients = backward(plain_model, batch)
    cached_loss, cached_gradients = backward(cached_model, batch)
    assert torch.equal(loss, cached_loss)
    assert_gradients_are_equal(gradients, cached_gradients)


def saved_bytes(model: Contrastive, batch: ContrastiveBatch) -> int:
    """Return the bytes that a forward keeps for the backward, without the parameters."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(0.0, [shard_of(batch)])
    del output
    for parameter in model.parameters():
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(sizes.values())


def test_the_gradient_cache_keeps_little(case: Case) -> None:
    batch = batch_of(case.examples, 160)
    plain = saved_bytes(model_of(case.base, "cls"), batch)
    cached = saved_bytes(model_of(case.base, "cls", gradient_cache=160), batch)
    assert cached < plain / 10


def test_a_query_without_negatives_leaves_columns_empty(case: Case) -> None:
    candidates = np.full((len(case.examples), 4), -1, np.int32)
    candidates[0] = [50, 51, 52, 53]
    batches = batches_of(case.examples, candidates)
    batch = batches.collate(np.arange(4), torch.Generator().manual_seed(0))
    documents = batch.documents
    assert documents.shape == (16,)
    assert documents[7:].eq(-1).all()

    model = model_of(case.base, "cls")
    output = model(0.0, [shard_of(batch)])
    negatives = output.metrics["negatives"].item()
    assert output.losses["contrastive"].isfinite()
    assert negatives <= 6
    assert model.negatives == pytest.approx(negatives)


# Several processes


@pytest.mark.slow
def test_processes_share_their_passages(case: Case, tmp_path: Path) -> None:
    """Two real processes of six queries each: loss and gradients are those of one process with twelve."""
    script = Path(__file__).with_name("contrastive_worker.py")
    arguments = [case.base, case.queries, case.documents, case.dataset_id, tmp_path]
    for process in launch([sys.executable, str(script), *map(str, arguments)]):
        assert process.returncode == 0, process.stderr
    first = torch.load(tmp_path / "0.pt", weights_only=True)
    second = torch.load(tmp_path / "1.pt", weights_only=True)
    assert_gradients_are_equal(first["gradients"], second["gradients"])

    model = without_dropout(case.base, "cls")
    first_half = batch_of(case.examples, 160, ROWS[:6])
    second_half = batch_of(case.examples, 160, ROWS[6:])
    loss, gradients = backward(model, together(first_half, second_half))
    mean_loss = (first["loss"] + second["loss"]) / 2
    assert mean_loss == pytest.approx(loss.item(), rel=1e-5)
    assert_gradients_are_close(first["gradients"], gradients)
    mean_negatives = (first["negatives"] + second["negatives"]) / 2
    assert mean_negatives == pytest.approx(model.negatives)
    assert model.negatives > 40, "of 47 others in twelve times four"


def together(first: ContrastiveBatch, second: ContrastiveBatch) -> ContrastiveBatch:
    """Return two batches of six queries as one: the positives of both first, then their negatives."""
    return ContrastiveBatch(
        queries=joined(first.queries, second.queries, 6),
        passages=joined(first.passages, second.passages, 6),
        documents=positives_first(first.documents, second.documents, 6),
        answers=stacked(first.answers, second.answers),
    )


def joined(first: TextGroups, second: TextGroups, count: int) -> TextGroups:
    """Return the first `count` texts of both, then their later texts."""
    shifted = len(first.order) + second.order
    return TextGroups((*first.groups, *second.groups), positives_first(first.order, shifted, count))


def positives_first(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Return the first `count` values of both, then their later values."""
    return torch.cat([first[:count], second[:count], first[count:], second[count:]])


def stacked(first: Tensor, second: Tensor) -> Tensor:
    """Return the rows of both, padded to one width with -1."""
    width = max(first.shape[1], second.shape[1])
    padded_first = functional.pad(first, (0, width - first.shape[1]), value=-1)
    padded_second = functional.pad(second, (0, width - second.shape[1]), value=-1)
    return torch.cat([padded_first, padded_second])
