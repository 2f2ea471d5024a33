"""No mask, loss or similarity sorts indices on a device. The device raises at a scatter that would."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from bases import SHAPE, WORDS
from random_encoders import IDS, MASK, SIZES, encoder, released_tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from retrobench.model.backbones import Backbone
from retrobench.model.encoder import Embeddings, Encoder
from retrobench.model.heads import pooled_logits, token_loss
from retrobench.model.masking import decoder_visibility, whole_word_mask
from retrobench.training import deterministic


@pytest.fixture(autouse=True)
def as_in_training() -> Iterator[None]:
    with deterministic():
        torch.ops.rehearsal.forbid_sorting(True)
        yield
        torch.ops.rehearsal.forbid_sorting(False)


def random_words(texts: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the words [B, L] of texts, and their lengths [B]."""
    draw = random.Random(0)
    words = torch.full((texts, length), -1)
    lengths = []
    for row in range(texts):
        count = draw.randrange(1, length - 1)
        starts = torch.tensor([draw.random() < 0.7 for _ in range(count)])
        starts[0] = True
        words[row, 1 : count + 1] = starts.cumsum(0) - 1
        lengths.append(count + 2)
    return words, torch.tensor(lengths)


def test_masks_hide_whole_words_within_their_budget() -> None:
    words, lengths = random_words(8, 40)
    masks = whole_word_mask(words.cuda(), lengths.cuda(), 0.3, copies=5).cpu()  # [B, K, L]
    budgets = (lengths * 0.3).round().clamp(min=1)
    assert (masks.sum(2) <= budgets[:, None]).all()
    assert masks.any()
    for row in range(len(words)):
        for word in range(int(words[row].max()) + 1):
            of_word = masks[row][:, words[row] == word]
            assert torch.equal(of_word.all(1), of_word.any(1)), "a word is hidden whole or not at all"
    assert not masks[(words < 0)[:, None].expand_as(masks)].any()


def test_the_decoder_sees_the_first_token_and_never_its_own() -> None:
    words, lengths = random_words(8, 40)
    visible = decoder_visibility(words.cuda(), lengths.cuda(), 0.5, 256).cpu()
    for row, length in enumerate(lengths.tolist()):
        assert not visible[row, 1:length].diagonal(1).any()
        assert visible[row, 1:, 0].all()
        assert not visible[row, :, length:].any()


Losses = Callable[[Backbone, Tensor], Tensor]


def token_losses(backbone: Backbone, hidden: Tensor) -> Tensor:
    positions = torch.tensor([0, 3, 4, 10, 11], device=hidden.device)
    return token_loss(backbone, hidden, positions, positions + 20)


def pooled(backbone: Backbone, hidden: Tensor) -> Tensor:
    keep = torch.arange(hidden.shape[1], device=hidden.device) % 3 > 0
    return pooled_logits(backbone, hidden, keep.expand(hidden.shape[:2])).square().mean()


def gradients(module: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the loss and its gradients on the CPU, by name."""
    leaf = inputs.clone().requires_grad_()
    value = loss(leaf)
    value.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    numbers = {"loss": value.detach(), "inputs": leaf.grad}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            numbers[name] = parameter.grad
    return {name: tensor.cpu() for name, tensor in numbers.items()}


@pytest.mark.parametrize("losses", [token_losses, pooled])
def test_losses_over_the_vocabulary_are_those_of_the_cpu(losses: Losses) -> None:
    torch.manual_seed(0)
    on_cpu = Backbone(BertForMaskedLM(BertConfig(**SHAPE)))
    on_device = copy.deepcopy(on_cpu).cuda()
    hidden = torch.randn(3, 7, SHAPE["hidden_size"])
    expected = gradients(on_cpu, hidden, lambda leaf: losses(on_cpu, leaf))
    actual = gradients(on_device, hidden.cuda(), lambda leaf: losses(on_device, leaf))
    assert len(expected) > 3
    torch.testing.assert_close(actual, expected)


def test_similarities_of_terms_are_those_of_the_cpu() -> None:
    on_cpu = encoder(released_tokenizer(), "cls+terms")
    on_device = copy.deepcopy(on_cpu).cuda()
    queries = torch.rand(4, WORDS)
    dense = torch.rand(4, SIZES.dense)

    def loss_on(module: Encoder, device: str) -> Callable[[Tensor], Tensor]:
        def loss(documents: Tensor) -> Tensor:
            query_side = Embeddings(dense.to(device), queries.to(device))
            document_side = Embeddings(dense.to(device), documents)
            return module.similarity(query_side, document_side).square().sum()

        return loss

    documents = torch.rand(4, WORDS)
    expected = gradients(on_cpu, documents, loss_on(on_cpu, "cpu"))
    actual = gradients(on_device, documents.cuda(), loss_on(on_device, "cuda"))
    torch.testing.assert_close(actual, expected)
    assert (expected["inputs"] != 0).sum(1).tolist() == [SIZES.terms] * 4


def test_an_encoder_with_terms_learns_from_them() -> None:
    on_device = encoder(released_tokenizer(), "cls+terms").cuda().train()
    embeddings = on_device(IDS.cuda(), MASK.cuda())
    on_device.similarity(embeddings, embeddings).sum().backward()  # type: ignore[no-untyped-call]
    gradient = on_device.backbone.word_matrix.grad
    assert gradient is not None
    assert gradient.any()
