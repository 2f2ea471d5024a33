"""
The contract as a test, for the author of an objective.

* check_objective    passes, or raises AssertionError with what the contract wants and what was found
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from retrobench.config import REPRESENTATIONS, check_objective_class, configure_objective
from retrobench.errors import RetrobenchError
from retrobench.model import Backbone
from retrobench.objective import Objective, Passage, Step, Vocabulary

__all__ = ["check_objective"]

MAX_LENGTH = 24
STEPS = 20


def check_objective(objective_class: type[Objective], backbone: Backbone | None = None) -> None:
    """Try an objective on a few invented texts: what it declares, its batches, its losses, its export.

    Every preset is tried on texts that are empty, one token or too long. With its defaults the objective is also
    trained for 20 steps, in which the loss must fall, continued from its state, and exported. `backbone`, which stays
    as it is, replaces the tiny BERT that is made otherwise: a tiny one of another family shows that the objective
    knows more than BERT. Of an objective with `pretrains = False` only the declaration is checked. Whether
    `couples_batch` tells the truth cannot be seen from outside.

    Raises AssertionError, which names the objective, the part of the contract and what was found.
    """
    configured = _check_declaration(objective_class)
    if not objective_class.pretrains:
        return
    with _randomness_put_back():
        base = _tiny_bert() if backbone is None else backbone
        vocabulary = _vocabulary(base.config)
        for name, objective in configured.items():
            trial = _Trial(name, objective, base, vocabulary)
            trial.check_forward(trial.check_collate(_edge_cases(vocabulary)))
            trial.check_nothing_to_learn()
        trial = _Trial(objective_class.name, configured[objective_class.name], base, vocabulary)
        trial.check_export(trial.check_learning())


def _require(condition: object, text: str) -> None:
    if not condition:
        raise AssertionError(text)


@contextmanager
def _reporting(what: str) -> Iterator[None]:
    """An exception of the objective's own becomes an AssertionError that says what was tried."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error


def _check_declaration(objective_class: type[Objective]) -> dict[str, Objective]:
    """The objective with its defaults, under its name, and with each preset, under NAME:PRESET."""
    try:
        check_objective_class(objective_class)
    except RetrobenchError as error:
        raise AssertionError(str(error)) from error
    name, written = objective_class.name, objective_class.__doc__ or ""
    generated = written.startswith(f"{objective_class.__name__}(")  # what dataclass() puts where nothing is written
    _require(written.strip() and not generated, f"{name} has no docstring; say its idea in a sentence.")
    _require(objective_class.paper, f"{name}.paper is empty; cite it, or say that it is unpublished.")
    known = ", ".join(REPRESENTATIONS)
    shown = f"{name}.representation is {objective_class.representation!r}; known: {known}."
    _require(objective_class.representation in REPRESENTATIONS, shown)
    made = {name: configure_objective(objective_class, {})}
    made |= {
        f"{name}:{key}": configure_objective(objective_class, values) for key, values in objective_class.presets.items()
    }
    for label, objective in made.items():
        with _reporting(f"{label}: writing the settings as JSON and reading them back"):
            text = json.dumps(dataclasses.asdict(cast(Any, objective)), allow_nan=False)
            again = configure_objective(objective_class, json.loads(text))
        _require(again == objective, f"{label}: settings {text} read back from JSON make another objective.")
    return made


@contextmanager
def _randomness_put_back() -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def _seed_all(seed: int) -> None:
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        cast(Any, set_seed)(seed)


def _tiny_bert() -> Backbone:
    from transformers import BertConfig, BertForMaskedLM

    _seed_all(0)
    config = BertConfig(
        vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return Backbone(BertForMaskedLM(config))


def _vocabulary(config: Any) -> Vocabulary:
    pad = config.pad_token_id or 0
    cls, sep, mask, unknown = [i for i in range(5) if i != pad][:4]
    unused = range(config.vocab_size - 4, config.vocab_size)
    return Vocabulary(config.vocab_size, pad, cls, sep, mask, frozenset({pad, cls, sep, mask, unknown, *unused}))


def _passage(vocabulary: Vocabulary, tokens: int, draw: np.random.Generator, title: int = 0) -> Passage:
    """`tokens` ids of 16 words, the frequent ones first, of which every fourth id continues a word."""
    words = sorted(set(range(vocabulary.size)) - vocabulary.special)[:16]
    ids = np.asarray(words, np.uint16 if vocabulary.size <= 2**16 else np.uint32)
    ids = ids[draw.geometric(0.3, tokens).clip(max=len(words)) - 1]
    starts = (ids % 4 != 0) | (np.isin(np.arange(tokens), (0, title)))
    for array in (ids, starts):
        array.setflags(write=False)  # as they are on disk
    return Passage(ids[:title], starts[:title], ids[title:], starts[title:])


def _plain(vocabulary: Vocabulary) -> list[Passage]:
    draw = np.random.default_rng(0)
    return [_passage(vocabulary, tokens, draw, title=3 * (tokens % 2)) for tokens in range(8, 16)]


def _edge_cases(vocabulary: Vocabulary) -> list[Passage]:
    """Two ordinary texts, an empty one, one token, a title alone, and one that is too long."""
    draw = np.random.default_rng(1)
    sizes = ((12, 0), (9, 3), (0, 0), (1, 0), (4, 4), (3 * MAX_LENGTH, 5))
    return [_passage(vocabulary, tokens, draw, title) for tokens, title in sizes]


@dataclass(frozen=True)
class _Trial:
    """One configured objective, tried on copies of one backbone."""

    name: str
    objective: Objective
    base: Backbone
    vocabulary: Vocabulary

    def check_collate(self, passages: Sequence[Passage]) -> dict[str, Tensor]:
        batches = []
        for seed in (1, 2):
            _seed_all(seed)
            with _reporting(f"{self.name}: collate()"):
                draw = torch.Generator().manual_seed(0)
                batches.append(self.objective.collate(passages, self.vocabulary, MAX_LENGTH, draw))
        first, second = batches
        tensors = isinstance(first, dict) and all(isinstance(value, Tensor) for value in first.values())
        _require(tensors and "progress" not in first, f"{self.name}: collate() must give a dict of tensors by name.")
        off = [name for name, value in first.items() if value.device.type != "cpu"]
        _require(not off, f"{self.name}: collate() must stay on the CPU; not there: {', '.join(off)}.")
        mask = first.get("attention_mask")
        _require(mask is not None, f"{self.name}: collate() gives no 'attention_mask', by which tokens are counted.")
        longest = cast(Tensor, mask).shape[-1]
        _require(longest <= MAX_LENGTH, f"{self.name}: collate() made {longest} tokens of at most {MAX_LENGTH}.")
        changed = [name for name in first if name not in second or not torch.equal(first[name], second[name])]
        told = f"{self.name}: collate() must draw from its generator alone; differs at one seed: {', '.join(changed)}."
        _require(not changed, told)
        return first

    def wrapped(self) -> tuple[nn.Module, Backbone]:
        """The objective's module around a copy of the backbone, in training mode, and that copy."""
        backbone = deepcopy(self.base)
        with _reporting(f"{self.name}: wrap()"):
            model = self.objective.wrap(backbone)
        _require(isinstance(model, nn.Module), f"{self.name}: wrap() must give a torch module, not {model!r}.")
        held = any(module is backbone for module in model.modules())
        _require(held, f"{self.name}: wrap() must give a module that holds the backbone.")
        same = set(backbone.state_dict()) == set(self.base.state_dict())
        _require(same, f"{self.name}: wrap() changed the backbone's parts; what it adds belongs beside them.")
        return model.train(), backbone

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], progress: float, seed: int = 0) -> Tensor:
        """The losses of one forward [K], checked one by one."""
        torch.manual_seed(seed)
        with _reporting(f"{self.name}: forward() at progress {progress:g}"):
            out = model(progress, **batch)
        _require(isinstance(out, Step) and out.losses, f"{self.name}: forward() must give a Step with losses.")
        for name, value in {**out.losses, **out.metrics}.items():
            scalar = isinstance(value, Tensor) and value.ndim == 0
            _require(scalar, f"{self.name}: {name!r} must be a tensor without dimensions, not {value!r}.")
            _require(value.isfinite(), f"{self.name}: {name!r} is {value.item()} at progress {progress:g}.")
        return torch.stack([value.float() for value in out.losses.values()])

    def check_forward(self, batch: Mapping[str, Tensor]) -> None:
        model, backbone = self.wrapped()
        state = deepcopy(model.state_dict())
        first = self.losses(model, batch, 0.0)
        model.load_state_dict(state)
        again = self.losses(model, batch, 0.0)  # other generators have moved on
        told = "draw from torch's default generators alone and keep state in buffers"
        _require(torch.equal(first, again), f"{self.name}: two forwards from one state and one seed differ; {told}.")
        self.backward(model, again)
        slopes = [p.grad for p in backbone.parameters() if p.grad is not None]
        _require(any(slope.any() for slope in slopes), f"{self.name}: no gradient reaches the backbone.")
        self.losses(model, batch, 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.losses(model, batch, 0.5)
        self.backward(model, losses)

    def check_nothing_to_learn(self) -> None:
        """A batch of empty texts, which length buckets do make, has losses and gradients that are finite."""
        empty = _passage(self.vocabulary, 0, np.random.default_rng(0))
        batch = self.check_collate([empty, empty])
        model, _ = self.wrapped()
        self.backward(model, self.losses(model, batch, 0.5))

    def backward(self, model: nn.Module, losses: Tensor) -> None:
        total = losses.sum()
        _require(total.requires_grad, f"{self.name}: the losses depend on no parameter.")
        registered = {id(parameter) for parameter in model.parameters()}
        strange = [tuple(leaf.shape) for leaf in _leaves(total) if id(leaf) not in registered]
        _require(not strange, f"{self.name}: the losses depend on parameters that are not registered: {strange}.")
        model.zero_grad()
        with _reporting(f"{self.name}: backward()"):
            total.backward()  # type: ignore[no-untyped-call]
        wild = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        _require(not wild, f"{self.name}: gradients are not finite: {', '.join(wild)}.")

    def check_learning(self) -> Backbone:
        """The backbone after 20 steps on one batch, in which the loss fell, continued from their state."""
        batch = self.check_collate(_plain(self.vocabulary))
        model, backbone = self.wrapped()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        totals = []
        for step in range(STEPS):
            losses = self.losses(model, batch, 0.5, seed=step)  # a weight that changes with progress is held
            self.backward(model, losses)
            optimizer.step()
            totals.append(losses.sum().item())
        before, after = float(np.mean(totals[:3])), float(np.mean(totals[-3:]))
        fell = before - after > 0.05 * abs(before)  # the built-in ones lose some 45 %
        _require(fell, f"{self.name}: {STEPS} steps on one batch took the loss from {before:.4g} to {after:.4g}.")
        other, _ = self.wrapped()
        with _reporting(f"{self.name}: load_state_dict()"):
            other.load_state_dict(model.state_dict())
        same = torch.equal(self.losses(model, batch, 0.5), self.losses(other, batch, 0.5))
        _require(same, f"{self.name}: its state_dict() does not restore the losses; keep state in buffers.")
        return backbone

    def check_export(self, backbone: Backbone) -> None:
        from transformers import AutoModel

        ids = torch.arange(5, 15)[None]
        with TemporaryDirectory() as folder, torch.no_grad():
            backbone.lm.save_pretrained(folder)
            alone = AutoModel.from_pretrained(folder).eval()
            found = alone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            expected = backbone.eval().hidden(ids, torch.ones_like(ids))
        _require(torch.equal(found, expected), f"{self.name}: AutoModel does not give the exported encoder's vectors.")


def _leaves(total: Tensor) -> Iterator[Tensor]:
    """The tensors that the backward of `total` gives gradients to."""
    waiting, seen = [total.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [following for following, _ in node.next_functions]
