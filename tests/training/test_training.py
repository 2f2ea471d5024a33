"""The training loop: losses that stay the same, resuming, the schedule, batches, and what happens when it fails."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from retrobench.config.discovery import configure_objective, discover, find_objective
from retrobench.config.track import Optimisation, Performance
from retrobench.data.datasets import load
from retrobench.data.tokens import TokenisedTexts, write_tokens
from retrobench.errors import DivergedError
from retrobench.model.loading import load_backbone, load_tokenizer
from retrobench.objective import Step
from retrobench.training import checkpoints
from retrobench.training.batches import AHEAD, Batches, seeded
from retrobench.training.loop import train
from retrobench.training.machine import compiles, resolve_precision

SETTINGS = Optimisation(
    steps=7, batch=8, learning_rate=1e-3, bucket=2, precision="fp32", checkpoint_every=2, log_every=1
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenisedTexts]:
    """The tiny base and its collection, tokenised."""
    collection, texts = tiny.make(tmp_path_factory.mktemp("tiny")), tmp_path_factory.mktemp("texts")
    documents = load(f"{collection.data}:train").documents()
    write_tokens(texts, [(d.id, d.title, d.text) for d in documents], load_tokenizer(collection.base))
    return collection.base, TokenisedTexts.open(texts)


class Interrupted(Exception):
    """Raised in the middle of training."""


class Trial:
    """An installed objective on the tiny base, trained into a folder; batch number `stop` raises."""

    def __init__(self, base: tuple[Path, TokenisedTexts], name: str = "mlm") -> None:
        torch.manual_seed(3)
        self.texts = base[1]
        self.rows = np.arange(len(self.texts))
        backbone, self.vocabulary = load_backbone(base[0], trains=True)
        self.objective: Any = configure_objective(find_objective(name, discover()).objective, {})  # type: ignore[arg-type]
        self.model = self.objective.wrap(backbone)
        self.calls, self.stop = 0, -1

    def collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        if self.calls == self.stop:
            raise Interrupted
        self.calls += 1
        batch: dict[str, Tensor] = self.objective.collate(
            [self.texts[row] for row in self.rows[rows]], self.vocabulary, 40, generator
        )
        return batch

    def names(self, rows: np.ndarray) -> list[str]:
        return [self.texts.ids[row] for row in self.rows[rows]]

    def train(self, folder: Path, settings: Optimisation = SETTINGS, seed: int = 5) -> dict[str, float]:
        folder.mkdir(exist_ok=True)
        lengths = np.minimum(self.texts.lengths[self.rows], 40)
        batches = Batches(lengths, settings.batch, settings.bucket, seed)
        return train(self.model, batches, self.collate, settings, folder, seed, self.names, "pretrain toy")


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


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
def test_first_losses_at_a_fixed_seed(name: str, base: tuple[Path, TokenisedTexts], tmp_path: Path) -> None:
    Trial(base, name).train(tmp_path, replace(SETTINGS, steps=3))
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2]
    losses = {key: [line[key] for line in lines] for key in LOSSES[name]}
    assert losses == {key: pytest.approx(values, abs=2e-4) for key, values in LOSSES[name].items()}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_equals_unbroken_bit_for_bit(
    accumulation: int, base: tuple[Path, TokenisedTexts], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, accumulation=accumulation)
    whole = Trial(base, "dupmae")
    cost = whole.train(tmp_path / "whole", settings)
    assert [path.name for path in sorted((tmp_path / "whole").glob("step-*"))] == ["step-000000006"]
    for stop in (5 * accumulation, accumulation):  # in step 5, after checkpoint 4; then in step 5 again
        broken = Trial(base, "dupmae")
        broken.stop = stop
        with pytest.raises(Interrupted):
            broken.train(tmp_path / "broken", settings)
        assert [path.name for path in (tmp_path / "broken").glob("step-*")] == ["step-000000004"]
    (tmp_path / "broken" / "step-000000006.new").mkdir()  # a checkpoint cut short
    (tmp_path / "broken" / "step-000000002.old").mkdir()  # and a removal
    torch.manual_seed(99)  # what the process drew before does not matter
    resumed = Trial(base, "dupmae")
    again = resumed.train(tmp_path / "broken", settings)
    assert resumed.calls == 3 * accumulation
    state = resumed.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.model.state_dict().items())
    assert log(tmp_path / "broken") == log(tmp_path / "whole")
    assert again["tokens"] == cost["tokens"]
    assert [path.name for path in (tmp_path / "broken").glob("step-*")] == ["step-000000006"]
    checkpoints.discard(tmp_path / "broken")
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["log.jsonl"]


def test_batches_made_ahead_are_the_same(
    base: tuple[Path, TokenisedTexts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: on another thread, while the device computes."""
    settings = replace(SETTINGS, accumulation=2)
    Trial(base, "bow-mae").train(tmp_path / "as needed", settings)
    monkeypatch.setitem(AHEAD, "cpu", 3)
    ahead = Trial(base, "bow-mae")
    ahead.train(tmp_path / "ahead", settings)
    assert log(tmp_path / "ahead") == log(tmp_path / "as needed")
    assert ahead.calls == 2 * settings.steps, "none is made that no step takes"


def test_what_fails_on_the_other_thread_is_told(
    base: tuple[Path, TokenisedTexts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AHEAD, "cpu", 2)
    broken = Trial(base)
    broken.stop = 3
    with pytest.raises(Interrupted):
        broken.train(tmp_path, SETTINGS)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's tracer hides it from everyone else
# CPython issue 125608: on 3.13.0 alone, torch guards a dictionary without its version. Slower, still correct.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_compiled_layers_give_the_same_losses(
    base: tuple[Path, TokenisedTexts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's tracer with its plain backend: what a GPU's compiler starts from, without the minute that this takes."""
    Trial(base, "retromae").train(tmp_path / "eager", replace(SETTINGS, steps=3))
    compiled: list[nn.Module] = []
    plain = nn.Module.compile

    def compile_layer(layer: nn.Module, **options: Any) -> None:
        compiled.append(layer)
        plain(layer, backend="aot_eager", **options)

    monkeypatch.setattr(nn.Module, "compile", compile_layer)
    trial = Trial(base, "retromae")
    trial.train(tmp_path / "compiled", replace(SETTINGS, steps=3, performance=Performance(compile="on")))
    assert len(compiled) == 2, "each layer, once for all lengths"
    for line, eager in zip(log(tmp_path / "compiled"), log(tmp_path / "eager"), strict=True):
        assert line == {name: pytest.approx(value, rel=1e-4) for name, value in eager.items()}


def test_layers_are_compiled_on_a_gpu_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: tuple[Literal["auto"], Literal["on"], Literal["off"]] = ("auto", "on", "off")
    choices = [replace(SETTINGS, performance=Performance(compile=kind)) for kind in kinds]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [compiles(settings) for settings in choices] == ["on", "on", "off"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [compiles(settings) for settings in choices] == ["auto", "on", "off"]


def test_a_start_from_nothing_forgets_what_was_logged(base: tuple[Path, TokenisedTexts], tmp_path: Path) -> None:
    broken = Trial(base)
    broken.stop = 2
    with pytest.raises(Interrupted):
        broken.train(tmp_path, replace(SETTINGS, checkpoint_every=5))
    assert [line["step"] for line in log(tmp_path)] == [0, 1]
    Trial(base).train(tmp_path, replace(SETTINGS, checkpoint_every=5))
    assert [line["step"] for line in log(tmp_path)] == list(range(7))


def test_another_seed_gives_other_losses(base: tuple[Path, TokenisedTexts], tmp_path: Path) -> None:
    for seed in (5, 6):
        Trial(base).train(tmp_path / str(seed), replace(SETTINGS, steps=1), seed)
    assert log(tmp_path / "5")[0]["mlm"] != log(tmp_path / "6")[0]["mlm"]


def test_tokens_are_counted_without_padding(base: tuple[Path, TokenisedTexts], tmp_path: Path) -> None:
    trial = Trial(base)
    cost = trial.train(tmp_path, replace(SETTINGS, accumulation=2))
    lengths = np.minimum(trial.texts.lengths, 40)
    batches = Batches(lengths, 8, 2, 5)
    real = np.minimum(trial.texts.lengths + 2, 40)
    assert cost["tokens"] == sum(real[batches.rows(number)].sum() for number in range(14))
    assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["seconds"])
    assert 0 < cost["data_seconds"] < cost["seconds"]


def test_rates_by_hand() -> None:
    linear = Optimisation(steps=10, batch=1, learning_rate=1.0, warmup=0.2)
    assert [linear.rate(step) for step in range(10)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    )
    cosine = replace(linear, schedule="cosine", floor=0.1, warmup=0.0)
    assert cosine.rate(0) == 1.0
    assert cosine.rate(5) == pytest.approx(0.55)
    assert cosine.rate(9) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(0.9 * math.pi)))
    constant = replace(linear, schedule="constant", learning_rate=3e-4)
    assert [constant.rate(step) for step in (0, 1, 2, 9)] == pytest.approx([1.5e-4, 3e-4, 3e-4, 3e-4])


@pytest.mark.parametrize("bucket", [0, 2])
def test_every_epoch_is_a_permutation(bucket: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 30)
    batches = Batches(lengths, 4, bucket, seed=1)
    epochs = [np.concatenate([batches.rows(epoch * 7 + number) for number in range(7)]) for epoch in range(3)]
    for rows in epochs:
        assert len(rows) == 28 == len(set(rows.tolist()))  # 30 rows in batches of 4: two wait for another epoch
        assert set(rows.tolist()) <= set(range(30))
    assert not np.array_equal(epochs[0], epochs[1])
    assert set(np.concatenate(epochs).tolist()) == set(range(30))


def padding(batches: Batches, count: int) -> int:
    rows = [batches.lengths[batches.rows(number)] for number in range(count)]
    return int(sum((batch_lengths.max() - batch_lengths).sum() for batch_lengths in rows))


def test_buckets_waste_less_and_depend_on_seed_and_number_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 800)
    plain, bucketed = Batches(lengths, 8, 0, seed=1), Batches(lengths, 8, 25, seed=1)
    assert padding(bucketed, 100) < 0.15 * padding(plain, 100)
    chosen_rows = [bucketed.rows(number).tolist() for number in (3, 250, 7)]
    assert [Batches(lengths, 8, 25, seed=1).rows(number).tolist() for number in (3, 250, 7)] == chosen_rows
    assert Batches(lengths, 8, 25, seed=2).rows(3).tolist() != chosen_rows[0]
    means = [lengths[bucketed.rows(number)].mean() for number in range(25)]
    assert means != sorted(means), "short batches come first only by chance"


def test_fewer_rows_than_a_batch_make_one_of_all() -> None:
    batches = Batches(np.asarray([5, 1, 3]), 8, 32, seed=0)
    assert [sorted(batches.rows(number).tolist()) for number in range(3)] == [[0, 1, 2]] * 3


def test_every_forward_has_a_seed_of_its_own() -> None:
    numbers = list(product((0, 1), range(50), (0, 1), (0, 1)))  # seed, step, micro-batch, rank
    seeds = {seeded(*four) for four in numbers}
    assert len(seeds) == len(numbers) == 400 and max(seeds) < 2**63


class Line(nn.Module):
    """Least squares: the mean over a batch, so that two halves average to the whole."""

    def __init__(self, loss: Callable[[Tensor, float], Tensor] | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.constant_(self.linear.bias, 0.25)
        self.loss, self.progress = loss, list[float]()

    def forward(self, progress: float, x: Tensor) -> Step:
        self.progress.append(progress)
        error = (self.linear(x) - x[:, :2] * 2).square().mean()
        return Step({"error": self.loss(error, progress) if self.loss else error}, {})


DRAWN = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def fit(model: nn.Module, folder: Path, **changed: Any) -> dict[str, float]:
    settings = replace(SETTINGS, steps=4, bucket=0, batch=4, **changed)
    folder.mkdir(exist_ok=True)
    batches = Batches(np.ones(16, np.int64), settings.batch, 0, seed=0)

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.from_numpy(DRAWN[rows])}

    def names(rows: np.ndarray) -> Sequence[str]:
        return [f"doc {row}" for row in rows]

    return train(model, batches, collate, settings, folder, 0, names, "pretrain line")


def test_accumulation_averages_gradients(tmp_path: Path) -> None:
    halves, whole = Line(), Line()
    fit(halves, tmp_path / "halves", accumulation=2)
    settings = replace(SETTINGS, steps=4, bucket=0, batch=8)
    batches = Batches(np.ones(16, np.int64), 8, 0, seed=0)  # its batch n holds batches 2n and 2n + 1 of four
    (tmp_path / "whole").mkdir()
    train(
        whole,
        batches,
        lambda rows, _: {"x": torch.from_numpy(DRAWN[rows])},
        settings,
        tmp_path / "whole",
        0,
        lambda rows: [str(row) for row in rows],
        "whole",
    )
    assert torch.allclose(halves.linear.weight, whole.linear.weight, atol=1e-6)
    assert not torch.allclose(whole.linear.weight, torch.full((2, 3), 0.5), atol=1e-3), "it did learn"
    norms = [line["gradient_norm"] for line in log(tmp_path / "halves") if "gradient_norm" in line]
    assert norms == pytest.approx([line["gradient_norm"] for line in log(tmp_path / "whole")], rel=1e-5)
    assert halves.progress == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_epochs_are_counted_in_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = replace(SETTINGS, steps=0, epochs=1.5, batch=4, bucket=0, warmup=0.0)
    batches, model = Batches(np.ones(18, np.int64), 4, 0, seed=0), Line()
    rows = {"x": torch.from_numpy(DRAWN[:4])}
    train(model, batches, lambda _, __: rows, settings, tmp_path, 0, lambda rows: [], "line")
    assert [line["rate"] for line in log(tmp_path)] == [
        replace(settings, steps=6, epochs=0.0).rate(n) for n in range(6)
    ]
    assert model.progress == [n / 6 for n in range(6)]
    assert "line: 6 steps, 1.5 times over 18 examples\n" in capfd.readouterr().err


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_gradients_are_clipped_to_the_norm_asked_for(clip: float, tmp_path: Path) -> None:
    fit(Line(lambda error, _: 100 * error), tmp_path, clip=clip, checkpoint_every=3)
    moments = load_file(tmp_path / "step-000000003" / "state.safetensors")
    squared = sum(moments[f"optimizer.exp_avg_sq.linear.{name}"].sum() for name in ("weight", "bias"))
    norms = [line["gradient_norm"] for line in log(tmp_path)[:3]]
    assert min(norms) > 10
    clipped = [min(value, clip) if clip else value for value in norms]
    by_hand = sum(0.001 * value**2 * 0.999 ** (2 - step) for step, value in enumerate(clipped))
    assert moments["optimizer.step.linear.weight"] == 3
    assert float(squared) == pytest.approx(by_hand, rel=1e-4)


def test_words_decay_and_biases_do_not(tmp_path: Path) -> None:
    model = Line(lambda error, _: 0 * error)
    fit(model, tmp_path, weight_decay=0.5, schedule="constant", warmup=0.0, learning_rate=0.1)
    assert torch.allclose(model.linear.weight, torch.full((2, 3), 0.5 * 0.95**4))
    assert torch.equal(model.linear.bias, torch.full((2,), 0.25))


BAD: dict[str, Callable[[Tensor, float], Tensor]] = {
    "loss": lambda error, progress: error * math.nan if progress == 0.75 else error,
    # The square root of 0 is finite, and its slope is not.
    "gradient": lambda error, progress: error + (0 * error).sqrt() if progress == 0.75 else error,
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("log_every", [1, 100])
def test_what_is_not_finite_stops_before_a_checkpoint_holds_it(kind: str, log_every: int, tmp_path: Path) -> None:
    with pytest.raises(DivergedError) as caught:
        fit(Line(BAD[kind]), tmp_path, checkpoint_every=1, log_every=log_every)
    shown = ", ".join(f"doc {row}" for row in Batches(np.ones(16, np.int64), 4, 0, seed=0).rows(3))
    last = tmp_path / "step-000000003"
    error = "error nan" if kind == "loss" else r"error \d\.\d+"
    text = (
        f"the batch held {shown}; the last good checkpoint is {last}. Lower the learning rate or look at these texts."
    )
    assert caught.match(rf"^pretrain line: step 3 is not finite \({error}, gradient_norm nan\); {text}")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert all(value.isfinite().all() for value in load_file(last / "state.safetensors").values())
    assert [path.name for path in tmp_path.glob("step-*")] == [last.name]


def test_divergence_before_any_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 0 is not finite .* no checkpoint was written yet"):
        fit(Line(lambda error, _: error * math.inf), tmp_path)


def test_a_batch_of_texts_without_words_is_trained_around(base: tuple[Path, TokenisedTexts], tmp_path: Path) -> None:
    for name in ("mlm", "retromae", "bow-mae", "dupmae"):
        trial = Trial(base, name)
        trial.rows = np.asarray([trial.texts.ids.index(identifier) for identifier in ("specials", "empty")])
        trial.train(tmp_path / name, replace(SETTINGS, steps=2, batch=2))
        assert len(log(tmp_path / name)) == 2
        assert all(parameter.isfinite().all() for parameter in trial.model.parameters())


def test_precision_is_what_was_asked_for() -> None:
    assert (resolve_precision("fp32"), resolve_precision("bf16")) == ("fp32", "bf16")
    assert resolve_precision("auto") in ("fp32", "bf16")
