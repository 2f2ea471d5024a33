"""check_objective names the broken part of the contract."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench import Context, Step
from retrobench.model import Backbone, Pretraining
from retrobench.model.masking import masked_batch, pack
from retrobench.testing import check_objective, check_target
from retrobench_mlm import MaskedLanguageModelling


def broken(**members: Any) -> Any:
    """Return masked language modelling, which keeps the contract, with replaced members."""
    changed = type("Broken", (MaskedLanguageModelling,), {"__doc__": "Predicts masked words.", **members})
    return dataclass(frozen=True)(changed)


def collated(change: Callable[[dict[str, Tensor]], dict[str, Any]]) -> Any:
    """Return an objective with a change to its batches."""

    def collate(self: Any, *arguments: Any) -> dict[str, Tensor]:
        return change(MaskedLanguageModelling.collate(self, *arguments))

    return broken(collate=collate)


def stepped(change: Callable[[Pretraining, Step], Step]) -> Any:
    """Return an objective with a change to its steps."""

    def step(self: Any, model: Pretraining, progress: float, **batch: Tensor) -> Step:
        return change(model, MaskedLanguageModelling.step(self, model, progress, **batch))

    return broken(step=step)


def from_the_default_generator(self: Any, passages: Any, vocabulary: Any, max_length: int, _: Any) -> dict[str, Tensor]:
    return masked_batch(pack(passages, vocabulary, max_length), vocabulary, 0.3, torch.default_generator)


def too_long(self: Any, passages: Any, vocabulary: Any, max_length: int, generator: Any) -> dict[str, Tensor]:
    return masked_batch(pack(passages, vocabulary, 40), vocabulary, 0.3, generator)


def divides_by_length(self: Any, passages: Any, *arguments: Any) -> dict[str, Tensor]:
    batch = MaskedLanguageModelling.collate(self, passages, *arguments)
    batch["shares"] = torch.tensor([1 / len(passage.text) for passage in passages])
    return batch


def mean_of_nothing(
    self: Any, model: Any, progress: float, input_ids: Tensor, attention_mask: Tensor, **labels: Tensor
) -> Step:
    hidden = model.backbone.hidden(input_ids, attention_mask).flatten(0, 1)
    logits = model.backbone.logits(hidden[labels["masked_positions"]])
    return Step({"mlm": F.cross_entropy(logits, labels["masked_ids"])}, {})


def at_random(model: Pretraining, out: Step) -> Step:
    return Step({"mlm": out.losses["mlm"] * (1 + np.random.random())}, {})


def counted(model: Pretraining, out: Step) -> Step:
    object.__setattr__(model, "seen", getattr(model, "seen", 0) + 1)
    return Step({"mlm": out.losses["mlm"] * model.seen}, {})  # type: ignore[operator]


def hidden_parameters(self: Any, backbone: Backbone, context: Context) -> nn.Module:
    width = backbone.config.hidden_size
    projections = [nn.Linear(width, width)]

    def step(model: Pretraining, progress: float, **batch: Tensor) -> Step:
        out = MaskedLanguageModelling.step(self, model, progress, **batch)
        hidden = model.backbone.hidden(batch["input_ids"], batch["attention_mask"])
        return Step({**out.losses, "more": projections[0](hidden).square().mean()}, {})

    return Pretraining(backbone, step)


def grafted(self: Any, backbone: Backbone, context: Context) -> nn.Module:
    backbone.lm.more = nn.Linear(2, 2)
    return Pretraining(backbone, self.step)


def unsaved_teacher(self: Any, backbone: Backbone, context: Context) -> nn.Module:
    """Wrap with a moving mean of the word matrix that is missing in checkpoints."""
    teacher = [backbone.word_matrix.detach().clone()]

    def step(model: Pretraining, progress: float, **batch: Tensor) -> Step:
        out = MaskedLanguageModelling.step(self, model, progress, **batch)
        words = backbone.word_matrix
        teacher[0].lerp_(words.detach(), 0.1)
        return Step({**out.losses, "drift": (words - teacher[0]).square().mean()}, {})

    return Pretraining(backbone, step)


def without_the_backbone(self: Any, model: Any, progress: float, **batch: Tensor) -> Step:
    return Step({"mlm": model.added.weight.square().sum()}, {})


def with_a_layer(self: Any, backbone: Backbone, context: Context) -> nn.Module:
    return Pretraining(backbone, self.step, fresh={"added": nn.Linear(2, 2)})


def unlearnable(model: Pretraining, out: Step) -> Step:
    loss = out.losses["mlm"]
    return Step({"mlm": loss - loss.detach() + 1}, {})


def with_a_number(batch: dict[str, Tensor]) -> dict[str, Any]:
    return {**batch, "count": 3}


def without_a_mask(batch: dict[str, Tensor]) -> dict[str, Any]:
    return {"input_ids": batch["input_ids"]}


def with_an_unknown_tensor(batch: dict[str, Tensor]) -> dict[str, Any]:
    return {**batch, "more": batch["input_ids"]}


def without_losses(model: Pretraining, out: Step) -> Step:
    return Step({}, {})


def one_dimension(model: Pretraining, out: Step) -> Step:
    return Step({"mlm": out.losses["mlm"][None]}, {})


def detached(model: Pretraining, out: Step) -> Step:
    return Step({"mlm": out.losses["mlm"].detach()}, {})


def wrapped_in_nothing(self: Any, backbone: Backbone, context: Context) -> nn.Module:
    return nn.Linear(2, 2)


BREAKS = [
    # The class
    (broken(__doc__=""), "mlm has no docstring; say its idea in a sentence."),
    (broken(paper=""), "mlm.paper is empty;"),
    (broken(representation="csl"), "Broken.representation is 'csl'; known: cls, mean, terms, cls+terms."),
    (broken(presets={"paper": {"ratio": 0.5}}), "Unknown setting 'objective.ratio'. Did you mean"),
    (type("Thawed", (MaskedLanguageModelling,), {}), "Thawed is not a frozen dataclass"),
    # collate()
    (broken(collate=from_the_default_generator), "collate() must draw from its generator alone; differs at one seed:"),
    (broken(collate=too_long), "mlm: collate() made 40 tokens of at most 24."),
    (broken(collate=divides_by_length), "mlm: collate() raised ZeroDivisionError: division by zero"),
    (collated(with_a_number), "mlm: collate() must give a dict of tensors by name, not a int as 'count'."),
    (collated(without_a_mask), "mlm: collate() gives no 'attention_mask'"),
    (collated(with_an_unknown_tensor), "mlm: forward() at progress 0 raised TypeError:"),
    # step()
    (broken(step=mean_of_nothing), "mlm: 'mlm' is nan at progress 0.5."),
    (stepped(without_losses), "mlm: forward() must give a Step with losses, and it has none."),
    (stepped(one_dimension), "mlm: 'mlm' must be a tensor without dimensions"),
    (stepped(detached), "mlm: the losses depend on no parameter."),
    (stepped(at_random), "mlm: two forwards from one state and one seed differ"),
    (stepped(counted), "mlm: two forwards from one state and one seed differ"),
    (stepped(unlearnable), "mlm: 20 steps on one batch took the loss from 1 to 1."),
    # wrap()
    (broken(wrap=hidden_parameters), "mlm: the losses depend on parameters that are not registered: "),
    (broken(wrap=grafted), "mlm: wrap() changed the backbone's parts"),
    (broken(wrap=wrapped_in_nothing), "mlm: wrap() must give a module that holds the backbone."),
    (broken(wrap=with_a_layer, step=without_the_backbone), "mlm: no gradient reaches the backbone."),
    (broken(wrap=unsaved_teacher), "mlm: its state_dict() does not restore the losses; keep state in buffers."),
]


def test_a_sound_objective_passes() -> None:
    check_objective(broken())


@pytest.mark.parametrize(("objective", "message"), BREAKS, ids=[message for _, message in BREAKS])
def test_the_error_names_the_broken_part(objective: Any, message: str) -> None:
    with pytest.raises(AssertionError) as error:
        check_objective(objective)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_objective_without_pretraining_needs_only_a_declaration() -> None:
    check_objective(broken(pretrains=False, collate=None, wrap=None))
    with pytest.raises(AssertionError, match="has no docstring"):
        check_objective(broken(pretrains=False, __doc__=""))


def test_checking_restores_the_random_generators() -> None:
    def states() -> list[Any]:
        numpy_state = np.random.get_state(legacy=False)["state"]
        return [torch.get_rng_state().tolist(), random.getstate(), numpy_state["key"].tolist(), numpy_state["pos"]]

    original_states = states()
    check_objective(MaskedLanguageModelling)
    with pytest.raises(AssertionError):
        check_objective(stepped(at_random))
    assert states() == original_states


@pytest.mark.slow
def test_the_report_shows_batch_and_losses_on_every_family() -> None:
    checked = check_target("mlm")
    assert checked.exit_code == 0
    heading, *lines = checked.text.splitlines()
    assert heading.startswith("mlm (retrobench ")
    parts = ("bert", "roberta", "modernbert", "processes")
    assert [line.split()[:2] for line in lines] == [[part, "ok"] for part in parts]
    for line in lines[:-1]:
        assert re.search(r"losses mlm 4\.\d{4}; batch input_ids \[8, 17\], attention_mask \[8, 17\]", line)
    assert "nothing to pre-train" in check_target("bert").text


FAULTY = """
from dataclasses import dataclass
from typing import ClassVar

from retrobench import hookimpl
from retrobench_mlm import MaskedLanguageModelling

@dataclass(frozen=True)
class Faulty(MaskedLanguageModelling):
    {docstring}
    name: ClassVar[str] = "faulty"

    def step(self, model, progress, **batch):
        return dict(super().step(model, progress, **batch).losses)

@hookimpl
def retrobench_objectives():
    return [Faulty]
"""


def test_a_file_is_checked_and_its_fault_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "faulty.py"
    file.write_text(FAULTY.format(docstring='"""Gives no Step."""'))
    checked = check_target(str(file))
    assert checked.exit_code == 1
    _, *lines = checked.text.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "FAULT  faulty: forward() must give a Step with losses, not a dict." in line
    file.write_text("def broken(:")
    assert "FAULT  SyntaxError" in check_target(str(file)).text
