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

from retrobench.config import check_objective_class, configure_objective, own_settings
from retrobench.errors import RetrobenchError
from retrobench.model import Backbone
from retrobench.objective import Context, Objective, Passage, Step, Vocabulary
from retrobench.testing.steps import MAX_LENGTH, TrialTraining, check_resuming
from retrobench.testing.texts import edge_cases, make_passage, make_vocabulary, ordinary_passages
from retrobench.training import check_batch, check_module, deterministic, forward

__all__ = ["Seen", "check_objective", "make_training"]

STEPS = 20


class Seen(NamedTuple):
    """The first batch and its losses, with the objective's defaults."""

    shapes: dict[str, list[int]]
    losses: dict[str, float]


def check_objective(objective_class: type[Objective], backbone: Backbone | None = None) -> Seen | None:
    """Check an objective on a few invented texts: its declaration, its batches, its losses and its export.

    Every preset is tried on texts that are empty, one token long or too long. With its defaults the objective is also
    trained for 20 steps, resumed from a checkpoint, and exported. In the steps the loss must fall, unless the objective
    couples its batch. `backbone` replaces the tiny BERT and stays unchanged: a tiny model of another family tests
    whether the objective supports that family.

    An objective with `pretrains = False` is checked only for its declaration, and None is returned.

    Raises AssertionError with the objective, the part of the contract and the fault.
    """
    configured = _check_declaration(objective_class)
    if not objective_class.pretrains:
        return None
    with _restored_randomness(), deterministic():
        base = backbone
        if base is None:
            base = _tiny_bert()
        vocabulary = make_vocabulary(base.config)
        tried: list[Objective] = []
        for name, objective in configured.items():
            if objective in tried:  # a preset of the defaults
                continue
            tried.append(objective)
            trial = _Trial(name, objective, base, vocabulary)
            batch = trial.check_collate(edge_cases(vocabulary))
            trial.check_forward(batch)
            trial.check_empty_texts()
        trial = _Trial(objective_class.name, configured[objective_class.name], base, vocabulary)
        trained = trial.check_learning()
        trial.check_export(trained)
        check_resuming(trial.name, make_training(trial.objective, base))
        return trial.first_losses()


def make_training(objective: Objective, base: Backbone | None = None) -> TrialTraining:
    """Return the parts of a trial training on ordinary texts; `base` is the tiny BERT by default."""
    if base is None:
        base = _tiny_bert()
    vocabulary = make_vocabulary(base.config)
    return TrialTraining(objective, base, vocabulary, ordinary_passages(vocabulary) * 2)


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
    configured = {name: configure_objective(objective_class, {})}
    for preset in objective_class.presets:
        own = own_settings(objective_class, preset)
        configured[f"{name}:{preset}"] = configure_objective(objective_class, own)
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
        try:
            return self._collated(passages)
        except Exception as error:
            fault = f"{self.name}: collate() raised {type(error).__name__}: {error}"
            raise AssertionError(f"{fault}{self._culprit(passages)}") from error

    def _collated(self, passages: Sequence[Passage]) -> dict[str, Tensor]:
        return self.objective.collate(passages, self.vocabulary, MAX_LENGTH, torch.Generator().manual_seed(0))

    def _culprit(self, passages: Sequence[Passage]) -> str:
        """Return words for the first text that `collate` cannot read by itself."""
        for passage in passages:
            try:
                self._collated([passage, passage])
            except Exception:
                return f" (at {len(passage.title)} tokens of title and {len(passage.text)} of text)"
        return f" (at {len(passages)} texts together)"

    def wrap(self) -> tuple[nn.Module, Backbone]:
        """Return the objective's module, in training mode, and the copy of the backbone in it."""
        backbone = deepcopy(self.base)
        context = Context(self.vocabulary, MAX_LENGTH, load=lambda name: deepcopy(self.base.lm))
        with _reporting(f"{self.name}: wrap()"):
            model = self.objective.wrap(backbone, context)
        with _asserting():
            check_module(self.name, model, backbone, self.objective.couples_batch)
        _require(
            backbone.state_dict().keys() == self.base.state_dict().keys(),
            f"{self.name}: wrap() changed the backbone's parts; its own parts belong beside the backbone.",
        )
        return model.train(), backbone

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], progress: float, seed: int = 0) -> Tensor:
        """Return the losses of a forward [K], and check each loss and metric."""
        step = self._forward(model, batch, progress, seed)
        scalars = {**step.losses, **step.metrics}
        for name, value in scalars.items():
            _require(value.isfinite(), f"{self.name}: {name!r} is {value.item()} at progress {progress:g}.")
        losses = [loss.float() for loss in step.losses.values()]
        return torch.stack(losses)

    def _forward(self, model: nn.Module, batch: Mapping[str, Tensor], progress: float, seed: int = 0) -> Step:
        """Return the result of a forward, in which a coupled batch is a single shard."""
        with _reporting(f"{self.name}: forward() at progress {progress:g}"), _asserting():
            return forward(self.objective, model, progress, dict(batch), seed)

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
        if self.objective.couples_batch:  # a queue that begins with random vectors may give no gradient
            repeated_losses = self.losses(model, batch, 0.0)
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
        empty = make_passage(self.vocabulary, 0, np.random.default_rng(0))
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
        batch = self._collate(ordinary_passages(self.vocabulary), global_seed=1)
        model, _ = self.wrap()
        step = self._forward(model, batch, 0.0)
        shapes = {name: list(tensor.shape) for name, tensor in batch.items()}
        return Seen(shapes, {name: loss.item() for name, loss in step.losses.items()})

    def check_learning(self) -> Backbone:
        """Return the backbone after 20 steps on one batch, in which the loss falls, and check the saved state."""
        batch = self.check_collate(ordinary_passages(self.vocabulary))
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
        if self.objective.couples_batch:
            has_fallen = True  # a queue that begins with random vectors makes the loss rise at first
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
