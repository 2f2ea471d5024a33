"""The parts of the contract, tried one by one on a few invented texts."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from retrobench.config import REPRESENTATIONS, check_objective_class, configure_objective
from retrobench.errors import RetrobenchError
from retrobench.model import Backbone
from retrobench.objective import Objective, Passage, Vocabulary
from retrobench.training import check_batch, check_module, check_step, deterministic

__all__ = ["Seen", "check_objective"]

MAX_LENGTH = 24
STEPS = 20


class Seen(NamedTuple):
    """The first batch and its losses, with the objective's defaults."""

    shapes: dict[str, list[int]]
    losses: dict[str, float]


def check_objective(objective_class: type[Objective], backbone: Backbone | None = None) -> Seen | None:
    """Check an objective on a few invented texts: its declaration, its batches, its losses and its export.

    Every preset is tried on texts that are empty, one token long or too long. With its defaults the objective is also
    trained for 20 steps, in which the loss must fall, resumed from its state, and exported. `backbone` replaces the
    tiny BERT and stays unchanged: a tiny model of another family tests whether the objective supports that family.

    An objective with `pretrains = False` is checked only for its declaration, and None is returned. The test cannot
    verify `couples_batch`.

    Raises AssertionError with the objective, the part of the contract and the fault.
    """
    configured = _check_declaration(objective_class)
    if not objective_class.pretrains:
        return None
    with _restored_randomness(), deterministic():
        base = backbone
        if base is None:
            base = _tiny_bert()
        vocabulary = _vocabulary(base.config)
        for name, objective in configured.items():
            trial = _Trial(name, objective, base, vocabulary)
            batch = trial.check_collate(_edge_cases(vocabulary))
            trial.check_forward(batch)
            trial.check_empty_texts()
        trial = _Trial(objective_class.name, configured[objective_class.name], base, vocabulary)
        trained = trial.check_learning()
        trial.check_export(trained)
        return trial.first_losses()


def _require(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


@contextmanager
def _reporting(action: str) -> Iterator[None]:
    """Turn an exception of the objective into an AssertionError that names the action."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{action} raised {type(error).__name__}: {error}") from error


@contextmanager
def _asserting() -> Iterator[None]:
    """Turn a fault of the contract into an AssertionError."""
    try:
        yield
    except RetrobenchError as error:
        raise AssertionError(str(error)) from error


def _check_declaration(objective_class: type[Objective]) -> dict[str, Objective]:
    """Return the objective with its defaults, under its name, and with each preset, under NAME:PRESET."""
    try:
        check_objective_class(objective_class)
    except RetrobenchError as error:
        raise AssertionError(str(error)) from error
    name = objective_class.name
    docstring = (objective_class.__doc__ or "").strip()
    is_generated = docstring.startswith(f"{objective_class.__name__}(")  # by dataclass()
    _require(docstring and not is_generated, f"{name} has no docstring; say its idea in a sentence.")
    _require(objective_class.paper, f"{name}.paper is empty; cite it, or say that it is unpublished.")
    representation = objective_class.representation
    choices = ", ".join(REPRESENTATIONS)
    _require(
        representation in REPRESENTATIONS,
        f"{name}.representation is {representation!r}; known: {choices}.",
    )
    configured = {name: configure_objective(objective_class, {})}
    for preset, settings in objective_class.presets.items():
        configured[f"{name}:{preset}"] = configure_objective(objective_class, settings)
    for label, objective in configured.items():
        _check_json(label, objective_class, objective)
    return configured


def _check_json(label: str, objective_class: type[Objective], objective: Objective) -> None:
    with _reporting(f"{label}: writing the settings as JSON and reading them back"):
        settings = dataclasses.asdict(cast(Any, objective))
        text = json.dumps(settings, allow_nan=False)
        copy = configure_objective(objective_class, json.loads(text))
    _require(copy == objective, f"{label}: settings {text} read back from JSON make another objective.")


@contextmanager
def _restored_randomness() -> Iterator[None]:
    """Restore the generators of Python, NumPy and torch afterwards."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _tiny_bert() -> Backbone:
    from transformers import BertConfig, BertForMaskedLM

    _seed_all(0)
    config = BertConfig(
        vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return Backbone(BertForMaskedLM(config))


def _vocabulary(config: Any) -> Vocabulary:
    """Return a vocabulary whose special ids are the lowest and whose unused ids are the highest."""
    size = config.vocab_size
    pad = config.pad_token_id or 0
    cls, sep, mask, unknown = [i for i in range(5) if i != pad][:4]
    unused = range(size - 4, size)
    special = frozenset({pad, cls, sep, mask, unknown, *unused})
    return Vocabulary(size, pad, cls, sep, mask, special)


def _passage(vocabulary: Vocabulary, tokens: int, draw: np.random.Generator, title: int = 0) -> Passage:
    """Return a passage of `tokens` ids, of which `title` are the title. The ids are of 16 words, with geometric counts.

    An id continues a word if it is a multiple of 4.
    """
    ordinary = set(range(vocabulary.size)) - vocabulary.special
    words = np.asarray(sorted(ordinary)[:16], _id_dtype(vocabulary))
    drawn = draw.geometric(0.3, tokens).clip(max=len(words)) - 1
    ids = words[drawn]
    is_first = np.isin(np.arange(tokens), (0, title))
    starts = (ids % 4 != 0) | is_first
    for array in (ids, starts):
        array.setflags(write=False)  # memory-mapped texts are read-only too
    return Passage(ids[:title], starts[:title], ids[title:], starts[title:])


def _id_dtype(vocabulary: Vocabulary) -> type[np.unsignedinteger[Any]]:
    if vocabulary.size <= 2**16:
        return np.uint16
    return np.uint32


def _ordinary_passages(vocabulary: Vocabulary) -> list[Passage]:
    """Return eight texts; each second one has a title of three tokens."""
    draw = np.random.default_rng(0)
    passages = []
    for tokens in range(8, 16):
        title = 3 * (tokens % 2)
        passages.append(_passage(vocabulary, tokens, draw, title))
    return passages


def _edge_cases(vocabulary: Vocabulary) -> list[Passage]:
    """Return two ordinary texts, an empty text, one token, a title without text, and a text that is too long."""
    draw = np.random.default_rng(1)
    tokens_and_title = ((12, 0), (9, 3), (0, 0), (1, 0), (4, 4), (3 * MAX_LENGTH, 5))
    passages = []
    for tokens, title in tokens_and_title:
        passages.append(_passage(vocabulary, tokens, draw, title))
    return passages


@dataclass(frozen=True)
class _Trial:
    """A configured objective, tried on copies of a backbone."""

    name: str
    objective: Objective
    base: Backbone
    vocabulary: Vocabulary

    def check_collate(self, passages: Sequence[Passage]) -> dict[str, Tensor]:
        """Return a batch of the passages."""
        batch = self._collate(passages, global_seed=1)
        with _asserting():
            check_batch(self.name, batch, MAX_LENGTH)
        second_batch = self._collate(passages, global_seed=2)
        changed = []
        for name, tensor in batch.items():
            if name not in second_batch or not torch.equal(tensor, second_batch[name]):
                changed.append(name)
        _require(
            not changed,
            f"{self.name}: collate() must draw from its generator alone; differs at one seed: {', '.join(changed)}.",
        )
        return batch

    def _collate(self, passages: Sequence[Passage], global_seed: int) -> dict[str, Tensor]:
        _seed_all(global_seed)
        generator = torch.Generator().manual_seed(0)
        with _reporting(f"{self.name}: collate()"):
            return self.objective.collate(passages, self.vocabulary, MAX_LENGTH, generator)

    def wrap(self) -> tuple[nn.Module, Backbone]:
        """Return the objective's module, in training mode, and the copy of the backbone in it."""
        backbone = deepcopy(self.base)
        with _reporting(f"{self.name}: wrap()"):
            model = self.objective.wrap(backbone)
        with _asserting():
            check_module(self.name, model, backbone)
        _require(
            backbone.state_dict().keys() == self.base.state_dict().keys(),
            f"{self.name}: wrap() changed the backbone's parts; its own parts belong beside the backbone.",
        )
        return model.train(), backbone

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], progress: float, seed: int = 0) -> Tensor:
        """Return the losses of a forward [K], and check each loss and metric."""
        torch.manual_seed(seed)
        with _reporting(f"{self.name}: forward() at progress {progress:g}"):
            step = model(progress, **batch)
        with _asserting():
            check_step(self.name, step)
        scalars = {**step.losses, **step.metrics}
        for name, value in scalars.items():
            _require(value.isfinite(), f"{self.name}: {name!r} is {value.item()} at progress {progress:g}.")
        losses = [loss.float() for loss in step.losses.values()]
        return torch.stack(losses)

    def check_forward(self, batch: Mapping[str, Tensor]) -> None:
        """Check that a forward is reproducible, and that its gradients reach the backbone, in fp32 and bf16."""
        model, backbone = self.wrap()
        state = deepcopy(model.state_dict())
        losses = self.losses(model, batch, 0.0)
        model.load_state_dict(state)
        repeated_losses = self.losses(model, batch, 0.0)  # generators other than torch's have advanced
        _require(
            torch.equal(losses, repeated_losses),
            f"{self.name}: two forwards from one state and one seed differ; "
            "draw from torch's default generators alone and keep state in buffers.",
        )
        self.backward(model, repeated_losses)
        has_gradient = False
        for parameter in backbone.parameters():
            if parameter.grad is not None and parameter.grad.any():
                has_gradient = True
        _require(has_gradient, f"{self.name}: no gradient reaches the backbone.")
        self.losses(model, batch, 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.losses(model, batch, 0.5)
        self.backward(model, losses)

    def check_empty_texts(self) -> None:
        """Check that a batch of empty texts, which length buckets can make, has finite losses and gradients."""
        empty = _passage(self.vocabulary, 0, np.random.default_rng(0))
        batch = self.check_collate([empty, empty])
        model, _ = self.wrap()
        losses = self.losses(model, batch, 0.5)
        self.backward(model, losses)

    def backward(self, model: nn.Module, losses: Tensor) -> None:
        """Compute and check the gradients."""
        total = losses.sum()
        _require(total.requires_grad, f"{self.name}: the losses depend on no parameter.")
        registered = {id(parameter) for parameter in model.parameters()}
        shapes = [tuple(leaf.shape) for leaf in _leaves(total) if id(leaf) not in registered]
        _require(not shapes, f"{self.name}: the losses depend on parameters that are not registered: {shapes}.")
        model.zero_grad()
        with _reporting(f"{self.name}: backward()"):
            total.backward()  # type: ignore[no-untyped-call]
        non_finite = []
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                non_finite.append(name)
        _require(not non_finite, f"{self.name}: gradients are not finite: {', '.join(non_finite)}.")

    def first_losses(self) -> Seen:
        """Return the shapes of a batch of ordinary texts, and the losses of a forward."""
        batch = self._collate(_ordinary_passages(self.vocabulary), global_seed=1)
        model, _ = self.wrap()
        torch.manual_seed(0)
        step = model(0.0, **batch)
        shapes = {name: list(tensor.shape) for name, tensor in batch.items()}
        return Seen(shapes, {name: loss.item() for name, loss in step.losses.items()})

    def check_learning(self) -> Backbone:
        """Return the backbone after 20 steps on one batch, in which the loss falls, and check the saved state."""
        batch = self.check_collate(_ordinary_passages(self.vocabulary))
        model, backbone = self.wrap()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        totals = []
        for step in range(STEPS):
            losses = self.losses(model, batch, 0.5, seed=step)  # constant progress, because weights may depend on it
            self.backward(model, losses)
            optimizer.step()
            totals.append(losses.sum().item())
        first_loss = float(np.mean(totals[:3]))
        last_loss = float(np.mean(totals[-3:]))
        has_fallen = first_loss - last_loss > 0.05 * abs(first_loss)  # the built-in objectives lose 45 %
        _require(
            has_fallen,
            f"{self.name}: {STEPS} steps on one batch took the loss from {first_loss:.4g} to {last_loss:.4g}.",
        )
        self._check_state(model, batch)
        return backbone

    def _check_state(self, model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        """Check that another model with the state of `model` has equal losses."""
        resumed, _ = self.wrap()
        with _reporting(f"{self.name}: load_state_dict()"):
            resumed.load_state_dict(model.state_dict())
        losses = self.losses(model, batch, 0.5)
        resumed_losses = self.losses(resumed, batch, 0.5)
        _require(
            torch.equal(losses, resumed_losses),
            f"{self.name}: its state_dict() does not restore the losses; keep state in buffers.",
        )

    def check_export(self, backbone: Backbone) -> None:
        """Check that transformers' AutoModel loads the saved encoder and gives its vectors."""
        from transformers import AutoModel

        ids = torch.arange(5, 15)[None]
        mask = torch.ones_like(ids)
        with TemporaryDirectory() as folder, torch.no_grad():
            backbone.lm.save_pretrained(folder)
            exported = AutoModel.from_pretrained(folder).eval()
            vectors = exported(input_ids=ids, attention_mask=mask).last_hidden_state
            expected = backbone.eval().hidden(ids, mask)
        _require(
            torch.equal(vectors, expected),
            f"{self.name}: AutoModel does not give the exported encoder's vectors.",
        )


def _leaves(total: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that the backward of `total` gives gradients to."""
    pending = [total.grad_fn]
    visited = set()
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        pending += [following for following, _ in node.next_functions]
