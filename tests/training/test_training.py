"""The installed objectives in the training loop: first losses, resuming, batches made ahead, compiled layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from contexts import wrapped
from torch import Tensor, nn
from trainings import SETTINGS, Interrupted, checkpoint_names, log, logged

from retrobench.config.declaration import configure_objective
from retrobench.config.discovery import discover, find_objective
from retrobench.config.track import Optimisation, Performance
from retrobench.data.datasets import load
from retrobench.data.tokens import TokenisedTexts, write_tokens
from retrobench.model.loading import load_backbone, load_tokenizer
from retrobench.training.batches import AHEAD, Batches
from retrobench.training.loop import train
from retrobench.training.machine import compiles


class TinyBase(NamedTuple):
    """A tiny base, and the tokenised documents of its collection."""

    folder: Path
    texts: TokenisedTexts


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """Make the tiny base and tokenise its collection."""
    collection = tiny.make(tmp_path_factory.mktemp("tiny"))
    texts_folder = tmp_path_factory.mktemp("texts")
    tokenizer = load_tokenizer(collection.base)
    dataset = load(f"{collection.data}:train")
    documents = [(document.id, document.title, document.text) for document in dataset.documents()]
    write_tokens(texts_folder, documents, tokenizer)
    return TinyBase(collection.base, TokenisedTexts.open(texts_folder))


class Trial:
    """An installed objective on the tiny base, trained into a folder; batch number `stop` raises."""

    def __init__(self, base: TinyBase, name: str = "mlm") -> None:
        torch.manual_seed(3)
        self.texts = base.texts
        self.rows = np.arange(len(self.texts))
        backbone, self.vocabulary = load_backbone(base.folder, trains=True)
        plugin = find_objective(name, discover())
        self.objective: Any = configure_objective(plugin.objective, {})  # type: ignore[arg-type]
        self.model = wrapped(self.objective, backbone, self.vocabulary)
        self.calls = 0
        self.stop = -1

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        """Collate a batch by the objective, and count the call."""
        if self.calls == self.stop:
            raise Interrupted
        self.calls += 1
        passages = [self.texts[row] for row in self.rows[rows]]
        batch: dict[str, Tensor] = self.objective.collate(passages, self.vocabulary, 40, generator)
        return batch

    def names(self, rows: np.ndarray) -> list[str]:
        """Return the document ids of a batch."""
        return [self.texts.ids[row] for row in self.rows[rows]]

    def train(self, folder: Path, settings: Optimisation = SETTINGS, seed: int = 5) -> dict[str, float]:
        """Train the model and return the cost."""
        folder.mkdir(exist_ok=True)
        lengths = np.minimum(self.texts.lengths[self.rows], 40)
        batches = Batches(lengths, settings.batch, settings.bucket, seed, settings.shards)
        return train(self.model, batches, self.collate, settings, folder, seed, self.names, "pretrain toy")

    def train_until(self, stop: int, folder: Path, settings: Optimisation = SETTINGS) -> None:
        """Train, and assert that batch number `stop` ends the training."""
        self.stop = stop
        with pytest.raises(Interrupted):
            self.train(folder, settings)


# As this loop gave them at first. An untrained model over 153 words starts near ln 153 = 5.03.
LOSSES = {
    "mlm": {"mlm": [5.02911, 5.04280, 5.02223]},
    "retromae": {"mlm": [5.02911, 5.04173, 5.02209], "decoder": [5.03589, 5.02520, 5.01439]},
    "bow-mae": {"mlm": [5.03285, 5.02899, 5.02447], "bow": [5.03419, 0.50249, 0.50199]},
    "dupmae": {
        "mlm": [5.02911, 5.04177, 5.02208],
        "decoder": [5.03538, 5.02465, 5.01465],
        "bow": [0.38902, 0.41626, 0.43435],
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_first_losses_at_a_fixed_seed(name: str, base: TinyBase, tmp_path: Path) -> None:
    trial = Trial(base, name)
    trial.train(tmp_path, replace(SETTINGS, steps=3))
    assert logged(tmp_path, "step") == [0, 1, 2]
    for loss, expected in LOSSES[name].items():
        assert logged(tmp_path, loss) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("shards", [1, 2])
def test_resumed_equals_unbroken_bit_for_bit(shards: int, base: TinyBase, tmp_path: Path) -> None:
    whole_folder = tmp_path / "whole"
    broken_folder = tmp_path / "broken"
    settings = replace(SETTINGS, shards=shards)
    whole = Trial(base, "dupmae")
    cost = whole.train(whole_folder, settings)
    assert checkpoint_names(whole_folder) == ["step-000000006", "step-000000007"]

    for stop in (5 * shards, shards):  # in step 5, after checkpoint 4; then in step 5 again
        Trial(base, "dupmae").train_until(stop, broken_folder, settings)
        assert checkpoint_names(broken_folder) == ["step-000000002", "step-000000004"]
    (broken_folder / "step-000000006.new").mkdir()  # a checkpoint cut short
    (broken_folder / "step-000000001.old").mkdir()  # and a removal
    torch.manual_seed(99)  # earlier draws of the process do not matter
    resumed = Trial(base, "dupmae")
    resumed_cost = resumed.train(broken_folder, settings)

    assert resumed.calls == 3 * shards
    resumed_state = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed_state[name])
    assert log(broken_folder) == log(whole_folder)
    assert resumed_cost["tokens"] == cost["tokens"]
    assert checkpoint_names(broken_folder) == ["step-000000006", "step-000000007"]


def test_batches_made_ahead_are_the_same(base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches on another thread while the device computes, as on a GPU."""
    settings = replace(SETTINGS, shards=2)
    Trial(base, "bow-mae").train(tmp_path / "as needed", settings)
    monkeypatch.setitem(AHEAD, "cpu", 3)
    ahead = Trial(base, "bow-mae")
    ahead.train(tmp_path / "ahead", settings)
    assert log(tmp_path / "ahead") == log(tmp_path / "as needed")
    assert ahead.calls == 2 * settings.steps, "no batch is made that no step takes"


def test_an_exception_on_the_other_thread_is_raised(
    base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AHEAD, "cpu", 2)
    Trial(base).train_until(3, tmp_path)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's tracer hides it from everyone else
# CPython issue 125608: on 3.13.0 alone, torch guards a dictionary without its version. Slower, still correct.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_compiled_layers_give_the_same_losses(base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run torch's tracer with its plain backend; a GPU's compiler starts from the same trace but takes a minute."""
    settings = replace(SETTINGS, steps=3)
    Trial(base, "retromae").train(tmp_path / "eager", settings)
    compiled: list[nn.Module] = []
    plain_compile = nn.Module.compile

    def compile_layer(layer: nn.Module, **options: Any) -> None:
        compiled.append(layer)
        plain_compile(layer, backend="aot_eager", **options)

    monkeypatch.setattr(nn.Module, "compile", compile_layer)
    trial = Trial(base, "retromae")
    trial.train(tmp_path / "compiled", replace(settings, performance=Performance(compile="on")))
    assert len(compiled) == 2, "each layer, once for all lengths"
    for line, eager in zip(log(tmp_path / "compiled"), log(tmp_path / "eager"), strict=True):
        assert line == pytest.approx(eager, rel=1e-4)


@pytest.mark.parametrize(
    ("setting", "has_gpu", "compiled"),
    [
        ("auto", True, "on"),
        ("on", True, "on"),
        ("off", True, "off"),
        ("auto", False, "auto"),
        ("on", False, "on"),
        ("off", False, "off"),
    ],
)
def test_layers_are_compiled_on_a_gpu_unless_refused(
    setting: Literal["auto", "on", "off"], has_gpu: bool, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, performance=Performance(compile=setting))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert compiles(settings) == compiled


def test_a_start_from_nothing_drops_the_old_log(base: TinyBase, tmp_path: Path) -> None:
    settings = replace(SETTINGS, checkpoint_every=5)
    Trial(base).train_until(2, tmp_path, settings)
    assert logged(tmp_path, "step") == [0, 1]
    Trial(base).train(tmp_path, settings)
    assert logged(tmp_path, "step") == [0, 1, 2, 3, 4, 5, 6]


def test_another_seed_gives_different_losses(base: TinyBase, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=1)
    Trial(base).train(tmp_path / "5", settings, seed=5)
    Trial(base).train(tmp_path / "6", settings, seed=6)
    assert logged(tmp_path / "5", "mlm") != logged(tmp_path / "6", "mlm")


def test_tokens_are_counted_without_padding(base: TinyBase, tmp_path: Path) -> None:
    trial = Trial(base)
    cost = trial.train(tmp_path, replace(SETTINGS, shards=2))
    batches = Batches(np.minimum(trial.texts.lengths, 40), 8, 2, 5)
    tokens_of_texts = np.minimum(trial.texts.lengths + 2, 40)  # with [CLS] and [SEP]
    tokens = 0
    for number in range(7):
        tokens += tokens_of_texts[batches.rows(number)].sum()
    assert cost["tokens"] == tokens
    assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["seconds"])
    assert 0 < cost["data_seconds"] < cost["seconds"]


@pytest.mark.parametrize("name", ["mlm", "retromae", "bow-mae", "dupmae"])
def test_a_batch_of_texts_without_words_is_trained_around(name: str, base: TinyBase, tmp_path: Path) -> None:
    trial = Trial(base, name)
    wordless = [trial.texts.ids.index("specials"), trial.texts.ids.index("empty")]
    trial.rows = np.asarray(wordless)
    trial.train(tmp_path, replace(SETTINGS, steps=2, batch=2))
    assert len(log(tmp_path)) == 2
    for parameter in trial.model.parameters():
        assert parameter.isfinite().all()
