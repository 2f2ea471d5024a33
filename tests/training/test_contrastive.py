"""A contrastive step in groups of like length, with a gradient cache, and shared by several processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from batches import rivals_of, texts_of
from processes import launch
from torch import Tensor

from retrobench.config.track import Representations
from retrobench.model.encoder import Encoder
from retrobench.model.loading import load_backbone
from retrobench.objective import Vocabulary
from retrobench.stages import tokenise
from retrobench.store.store import Artifact, Store
from retrobench.training.contrastive import Contrastive
from retrobench.training.examples import Candidates, Examples, Round

VOCABULARY = Vocabulary(153, 0, 2, 3, 4, frozenset({0, 1, 2, 3, 4}))
ROWS = np.arange(12)
KINDS: tuple[Literal["queries"], Literal["documents"]] = ("queries", "documents")


class Made(NamedTuple):
    """A tiny base, tokenised texts, and training examples of them."""

    base: Path
    queries: Path
    documents: Path
    dataset: str
    examples: Examples


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    found = tiny.make(tmp_path_factory.mktemp("contrastive"))
    store, start, name = Store(found.store), Artifact("start", "0", found.base, True, {}), f"{found.data}:train"
    queries, documents = (tokenise(store, start, name, kind).path for kind in KINDS)
    return Made(found.base, queries, documents, name, Examples(queries, documents, name))


def round_of(examples: Examples, budget: int) -> Round:
    candidates = np.asarray([[(5 * at + step) % 58 for step in range(4)] for at in range(len(examples))], np.int32)
    return Round(examples, VOCABULARY, 12, 40, Candidates(candidates), 3, budget=budget)


def batch_of(examples: Examples, budget: int, rows: np.ndarray = ROWS) -> dict[str, Tensor]:
    return round_of(examples, budget).collate(rows, torch.Generator().manual_seed(3))


def model_of(base: Path, representation: str, cached: bool = False) -> Contrastive:
    torch.manual_seed(1)
    backbone, _ = load_backbone(base, trains=True)
    encoder = Encoder(backbone, representation, Representations(dense=8, terms=12))
    return Contrastive(encoder, 1.0, cached=cached).train()


def without_dropout(base: Path, representation: str) -> Contrastive:
    model = model_of(base, representation)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def stepped(model: Contrastive, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and all gradients, dropout drawn from one seed."""
    torch.manual_seed(7)
    out = model(0.0, **batch)
    out.losses["contrastive"].backward()
    return out.losses["contrastive"].detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_groups_hold_the_same_texts_with_less_padding(made: Made) -> None:
    whole, split = (batch_of(made.examples, budget) for budget in (10**6, 160))
    assert "passage_1_ids" not in whole and "passage_4_ids" in split
    for side in ("query", "passage"):
        assert texts_of(whole, side) == texts_of(split, side)
    assert torch.equal(rivals_of(whole), rivals_of(split))

    def tokens(batch: dict[str, Tensor]) -> int:
        return sum(value.numel() for name, value in batch.items() if name.endswith("_ids"))

    real = sum(map(len, texts_of(whole))) + sum(map(len, texts_of(whole, "query")))
    assert real <= tokens(split) < tokens(whole)
    assert all(v.numel() <= 160 for k, v in split.items() if k.endswith("_ids"))


@pytest.mark.parametrize("representation", ["cls", "mean", "terms", "cls+terms"])
def test_groups_change_neither_loss_nor_gradients(representation: str, made: Made) -> None:
    found = []
    for budget in (10**6, 160):
        found.append(stepped(without_dropout(made.base, representation), batch_of(made.examples, budget)))
    (loss, slopes), (other, others) = found
    torch.testing.assert_close(loss, other, rtol=1e-6, atol=1e-6)
    assert slopes.keys() == others.keys() and len(slopes) > 20
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, others[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("representation", ["cls", "cls+terms"])
def test_the_gradient_cache_changes_no_bit(representation: str, made: Made) -> None:
    """Dropout included: what is made again is drawn again."""
    batch = batch_of(made.examples, 160)
    loss, slopes = stepped(model_of(made.base, representation), batch)
    cached, again = stepped(model_of(made.base, representation, cached=True), batch)
    assert torch.equal(loss, cached) and slopes.keys() == again.keys()
    assert all(torch.equal(slope, again[name]) for name, slope in slopes.items())


def kept(model: Contrastive, batch: dict[str, Tensor]) -> int:
    """Bytes that a forward keeps for the way back, beside the parameters."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(0.0, **batch)
    del out
    return sum(size for place, size in sizes.items() if place not in held)


def test_the_gradient_cache_keeps_little(made: Made) -> None:
    batch = batch_of(made.examples, 160)
    assert kept(model_of(made.base, "cls", cached=True), batch) < kept(model_of(made.base, "cls"), batch) / 10


def test_a_query_without_negatives_leaves_columns_empty(made: Made) -> None:
    examples = made.examples
    none = np.full((len(examples), 4), -1, np.int32)
    none[0] = [50, 51, 52, 53]
    round_ = Round(examples, VOCABULARY, 12, 40, Candidates(none), 3)
    batch = round_.collate(np.arange(4), torch.Generator().manual_seed(0))
    assert batch["documents"].shape == (16,) and batch["documents"][7:].eq(-1).all()
    model = model_of(made.base, "cls")
    out = model(0.0, **batch)
    assert out.losses["contrastive"].isfinite() and out.metrics["negatives"].item() <= 6
    assert model.negatives == pytest.approx(out.metrics["negatives"].item())


# Several processes


def test_processes_share_their_passages(made: Made, tmp_path: Path) -> None:
    """Two real processes of six queries each: loss and gradients are those of one process with twelve."""
    words = [
        sys.executable,
        str(Path(__file__).with_name("one_of_two.py")),
        *map(str, made[:4]),
        str(tmp_path),
    ]
    for process in launch(words):
        assert process.returncode == 0, process.stderr
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(slope, two["gradients"][name]) for name, slope in one["gradients"].items())

    model = without_dropout(made.base, "cls")
    parts = [batch_of(made.examples, 160, rows) for rows in (ROWS[:6], ROWS[6:])]
    loss, slopes = stepped(model, together(parts))
    mean = (one["losses"]["contrastive"] + two["losses"]["contrastive"]) / 2
    assert mean == pytest.approx(loss.item(), rel=1e-5)
    assert one["gradients"].keys() == slopes.keys() and len(slopes) > 20
    for name, slope in slopes.items():
        torch.testing.assert_close(one["gradients"][name], slope, rtol=1e-4, atol=1e-5)
    assert (one["negatives"] + two["negatives"]) / 2 == pytest.approx(model.negatives)
    assert model.negatives > 40, "of 47 others in twelve times four"


def together(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Two batches as one: the positives of both first, then their negatives."""
    batch: dict[str, Tensor] = {}
    for side in ("query", "passage"):
        groups = [
            (part[f"{side}_{number}_ids"], part[f"{side}_{number}_attention_mask"])
            for part in parts
            for number in range(sum(name.startswith(side) and name.endswith("_ids") for name in part))
        ]
        for number, (ids, mask) in enumerate(groups):
            batch |= {f"{side}_{number}_ids": ids, f"{side}_{number}_attention_mask": mask}
    batch["query_place"] = torch.cat([parts[0]["query_place"], 6 + parts[1]["query_place"]])
    first, second = parts[0]["passage_place"], len(parts[0]["passage_place"]) + parts[1]["passage_place"]
    batch["passage_place"] = torch.cat([first[:6], second[:6], first[6:], second[6:]])
    one, two = (part["documents"] for part in parts)
    batch["documents"] = torch.cat([one[:6], two[:6], one[6:], two[6:]])
    width = max(part["answers"].shape[1] for part in parts)
    padded = [torch.nn.functional.pad(p["answers"], (0, width - p["answers"].shape[1]), value=-1) for p in parts]
    batch["answers"] = torch.cat(padded)
    return batch
