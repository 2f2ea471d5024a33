"""The training loop: losses that stay the same, resuming, the schedule, batches, and what happens when it fails."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

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


class Interrupted(Exception):
    """Raised in the middle of training."""


class Trial:
    """An installed objective on the tiny base, trained into a folder; batch number `stop` raises."""

    def __init__(self, base: TinyBase, name: str = "mlm") -> None:
        torch.manual_seed(3)
        self.texts = base.texts
        self.rows = np.arange(len(self.texts))
        backbone, self.vocabulary = load_backbone(base.folder, trains=True)
        plugin = find_objective(name, discover())
        self.objective: Any = configure_objective(plugin.objective, {})  # type: ignore[arg-type]
        self.model = self.objective.wrap(backbone)
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


def log(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a training's log."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def logged(folder: Path, name: str) -> list[float]:
    """Return the values of `name` in a training's log."""
    return [line[name] for line in log(folder) if name in line]


def checkpoint_names(folder: Path) -> list[str]:
    """Return the names of the checkpoints in a folder, cut short or not."""
    return [path.name for path in sorted(folder.glob("step-*"))]


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
    assert checkpoint_names(whole_folder) == ["step-000000006"]

    for stop in (5 * shards, shards):  # in step 5, after checkpoint 4; then in step 5 again
        Trial(base, "dupmae").train_until(stop, broken_folder, settings)
        assert checkpoint_names(broken_folder) == ["step-000000004"]
    (broken_folder / "step-000000006.new").mkdir()  # a checkpoint cut short
    (broken_folder / "step-000000002.old").mkdir()  # and a removal
    torch.manual_seed(99)  # earlier draws of the process do not matter
    resumed = Trial(base, "dupmae")
    resumed_cost = resumed.train(broken_folder, settings)

    assert resumed.calls == 3 * shards
    resumed_state = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed_state[name])
    assert log(broken_folder) == log(whole_folder)
    assert resumed_cost["tokens"] == cost["tokens"]
    assert checkpoint_names(broken_folder) == ["step-000000006"]
    checkpoints.discard(broken_folder)
    assert [path.name for path in broken_folder.iterdir()] == ["log.jsonl"]


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


def test_rates_by_hand() -> None:
    linear = Optimisation(steps=10, batch=1, learning_rate=1.0, warmup=0.2)
    rates = [linear.rate(step) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])

    cosine = replace(linear, schedule="cosine", floor=0.1, warmup=0.0)
    assert cosine.rate(0) == 1.0
    assert cosine.rate(5) == pytest.approx(0.55)
    half_wave = 0.5 * (1 + math.cos(0.9 * math.pi))
    assert cosine.rate(9) == pytest.approx(0.1 + 0.9 * half_wave)

    constant = replace(linear, schedule="constant", learning_rate=3e-4)
    rates = [constant.rate(step) for step in (0, 1, 2, 9)]
    assert rates == pytest.approx([1.5e-4, 3e-4, 3e-4, 3e-4])


def rows_of_batches(batches: Batches, numbers: Sequence[int]) -> list[list[int]]:
    """Return the rows of numbered batches."""
    return [batches.rows(number).tolist() for number in numbers]


@pytest.mark.parametrize("bucket", [0, 2])
def test_every_epoch_is_a_permutation(bucket: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 30)
    batches = Batches(lengths, 4, bucket, seed=1)
    epochs = []
    for first in (0, 7, 14):
        rows = np.concatenate(rows_of_batches(batches, range(first, first + 7))).tolist()
        assert len(rows) == 28  # 30 rows in batches of 4: two wait for another epoch
        assert len(set(rows)) == 28
        assert set(rows) <= set(range(30))
        epochs.append(rows)
    assert epochs[0] != epochs[1]
    assert set().union(*epochs) == set(range(30))


def padding(batches: Batches, count: int) -> int:
    """Return the padding of the first `count` batches, in tokens."""
    tokens = 0
    for number in range(count):
        lengths = batches.lengths[batches.rows(number)]
        tokens += (lengths.max() - lengths).sum()
    return int(tokens)


def test_buckets_waste_less_and_depend_on_seed_and_number_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 800)
    plain = Batches(lengths, 8, 0, seed=1)
    bucketed = Batches(lengths, 8, 25, seed=1)
    assert padding(bucketed, 100) < 0.15 * padding(plain, 100)

    rows = rows_of_batches(bucketed, (3, 250, 7))
    same_seed = Batches(lengths, 8, 25, seed=1)
    assert rows_of_batches(same_seed, (3, 250, 7)) == rows
    another_seed = Batches(lengths, 8, 25, seed=2)
    assert rows_of_batches(another_seed, (3, 250, 7))[0] != rows[0]

    mean_lengths = [lengths[bucketed.rows(number)].mean() for number in range(25)]
    assert mean_lengths != sorted(mean_lengths), "short batches come first only by chance"


def test_fewer_rows_than_a_batch_make_a_batch_of_all() -> None:
    batches = Batches(np.asarray([5, 1, 3]), 8, 32, seed=0)
    for number in range(3):
        assert sorted(batches.rows(number).tolist()) == [0, 1, 2]


def test_every_forward_has_a_seed_of_its_own() -> None:
    numbers = list(product((0, 1), range(50), (0, 1), (0, 1)))  # seed, step, shard, round
    seeds = {seeded(*four_numbers) for four_numbers in numbers}
    assert len(numbers) == 400
    assert len(seeds) == 400
    assert max(seeds) < 2**63


def unchanged(error: Tensor, progress: float) -> Tensor:
    """Return the error."""
    return error


class LeastSquares(nn.Module):
    """Least squares: the mean over a batch, so that two halves average to the whole."""

    def __init__(self, loss: Callable[[Tensor, float], Tensor] = unchanged) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.constant_(self.linear.bias, 0.25)
        self.loss = loss
        self.progress: list[float] = []

    def forward(self, progress: float, inputs: Tensor) -> Step:
        self.progress.append(progress)
        targets = inputs[:, :2] * 2
        error = (self.linear(inputs) - targets).square().mean()
        return Step({"error": self.loss(error, progress)}, {})


INPUTS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def fit(model: nn.Module, folder: Path, **changed: Any) -> dict[str, float]:
    """Train a model on the 16 inputs, 4 steps of 4 rows, and return the cost."""
    settings = replace(SETTINGS, **{"steps": 4, "bucket": 0, "batch": 4, **changed})
    folder.mkdir(exist_ok=True)
    batches = Batches(np.ones(16, np.int64), settings.batch, 0, seed=0, shards=settings.shards)

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        return {"inputs": torch.from_numpy(INPUTS[rows])}

    def names(rows: np.ndarray) -> Sequence[str]:
        return [f"doc {row}" for row in rows]

    return train(model, batches, collate, settings, folder, 0, names, "pretrain line")


def test_gradients_are_means_over_the_shards(tmp_path: Path) -> None:
    halves = LeastSquares()
    whole = LeastSquares()
    fit(halves, tmp_path / "halves", batch=8, shards=2)
    fit(whole, tmp_path / "whole", batch=8)
    assert torch.allclose(halves.linear.weight, whole.linear.weight, atol=1e-6)
    initial_weight = torch.full((2, 3), 0.5)
    assert not torch.allclose(whole.linear.weight, initial_weight, atol=1e-3), "it did learn"
    norms = logged(tmp_path / "halves", "gradient_norm")
    assert norms == pytest.approx(logged(tmp_path / "whole", "gradient_norm"), rel=1e-5)
    assert halves.progress == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_epochs_are_counted_in_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = LeastSquares()
    batches = Batches(np.ones(18, np.int64), 4, 0, seed=0)
    batch = {"inputs": torch.from_numpy(INPUTS[:4])}
    in_epochs = replace(SETTINGS, steps=0, epochs=1.5, batch=4, bucket=0, warmup=0.0)
    in_steps = replace(in_epochs, steps=6, epochs=0.0)
    train(model, batches, lambda rows, generator: batch, in_epochs, tmp_path, 0, lambda rows: [], "line")
    assert logged(tmp_path, "rate") == [in_steps.rate(step) for step in range(6)]
    assert model.progress == [step / 6 for step in range(6)]
    assert "line: 6 steps, 1.5 times over 18 examples\n" in capfd.readouterr().err


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_gradients_are_clipped_to_the_norm_asked_for(clip: float, tmp_path: Path) -> None:
    def hundredfold(error: Tensor, progress: float) -> Tensor:
        return 100 * error

    fit(LeastSquares(hundredfold), tmp_path, clip=clip, checkpoint_every=3)
    norms = logged(tmp_path, "gradient_norm")[:3]
    assert min(norms) > 10

    # Adam's second moment, by hand: an average of the squared gradients that forgets 0.001 a step.
    second_moment = 0.0
    for norm in norms:
        clipped = norm
        if clip:
            clipped = min(norm, clip)
        second_moment = 0.999 * second_moment + 0.001 * clipped**2

    state = load_file(tmp_path / "step-000000003" / "state.safetensors")
    weight_moments = state["optimizer.exp_avg_sq.linear.weight"]
    bias_moments = state["optimizer.exp_avg_sq.linear.bias"]
    assert state["optimizer.step.linear.weight"] == 3
    assert float(weight_moments.sum() + bias_moments.sum()) == pytest.approx(second_moment, rel=1e-4)


def test_words_decay_and_biases_do_not(tmp_path: Path) -> None:
    model = LeastSquares(lambda error, progress: 0 * error)
    fit(model, tmp_path, weight_decay=0.5, schedule="constant", warmup=0.0, learning_rate=0.1)
    decayed_weight = torch.full((2, 3), 0.5 * 0.95**4)
    assert torch.allclose(model.linear.weight, decayed_weight)
    assert torch.equal(model.linear.bias, torch.full((2,), 0.25))


def non_finite_loss(error: Tensor, progress: float) -> Tensor:
    """Return a loss that is not finite in step 3 of 4."""
    if progress == 0.75:
        return error * math.nan
    return error


def non_finite_gradient(error: Tensor, progress: float) -> Tensor:
    """Return a loss whose gradient alone is not finite in step 3 of 4."""
    if progress == 0.75:
        return error + (0 * error).sqrt()  # the square root of 0 is finite, and its slope is not
    return error


@pytest.mark.parametrize(
    ("loss", "logged_error"),
    [(non_finite_loss, "error nan"), (non_finite_gradient, r"error \d\.\d+")],
    ids=["loss", "gradient"],
)
@pytest.mark.parametrize("log_every", [1, 100])
def test_a_non_finite_step_stops_before_a_checkpoint_holds_it(
    loss: Callable[[Tensor, float], Tensor], logged_error: str, log_every: int, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError) as raised:
        fit(LeastSquares(loss), tmp_path, checkpoint_every=1, log_every=log_every)
    batches = Batches(np.ones(16, np.int64), 4, 0, seed=0)
    ids = ", ".join(f"doc {row}" for row in batches.rows(3))
    last = tmp_path / "step-000000003"
    assert raised.match(
        rf"^pretrain line: step 3 is not finite \({logged_error}, gradient_norm nan\); "
        f"the batch held {ids}; the last good checkpoint is {last}. Lower the learning rate or look at these texts."
    )
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1
    assert checkpoint_names(tmp_path) == [last.name]
    for value in load_file(last / "state.safetensors").values():
        assert value.isfinite().all()


def test_divergence_before_any_checkpoint_says_so(tmp_path: Path) -> None:
    infinite = LeastSquares(lambda error, progress: error * math.inf)
    with pytest.raises(DivergedError, match=r"step 0 is not finite .* no checkpoint was written yet"):
        fit(infinite, tmp_path)


@pytest.mark.parametrize("name", ["mlm", "retromae", "bow-mae", "dupmae"])
def test_a_batch_of_texts_without_words_is_trained_around(name: str, base: TinyBase, tmp_path: Path) -> None:
    trial = Trial(base, name)
    wordless = [trial.texts.ids.index("specials"), trial.texts.ids.index("empty")]
    trial.rows = np.asarray(wordless)
    trial.train(tmp_path, replace(SETTINGS, steps=2, batch=2))
    assert len(log(tmp_path)) == 2
    for parameter in trial.model.parameters():
        assert parameter.isfinite().all()


def test_the_requested_precision_is_used() -> None:
    assert resolve_precision("fp32") == "fp32"
    assert resolve_precision("bf16") == "bf16"
    assert resolve_precision("auto") in ("fp32", "bf16")
