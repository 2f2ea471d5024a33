"""The one training loop, for pre-training and fine-tuning alike. Batch and randomness at a step depend on it alone."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from retrobench.config import Optimisation, Precision
from retrobench.core import bar, computes_bf16, gpu_memory, processes, say
from retrobench.errors import DivergedError, RetrobenchError
from retrobench.model import Backbone
from retrobench.objective import Step
from retrobench.training.checkpoints import checkpoints, load, save

Collate = Callable[[np.ndarray, torch.Generator], Mapping[str, Any]]  # rows to the arguments of a forward
Settings = TypeVar("Settings", bound=Optimisation)

__all__ = [
    "Batches",
    "Loop",
    "compiles",
    "deterministic",
    "map_tensors",
    "on_this_machine",
    "resolve_precision",
    "seeded",
    "train",
]

# Batches made ahead, by device. A processor would only take the time from its own computing.
AHEAD = {"cpu": 0, "cuda": 2}


def resolve_precision(asked: Precision) -> Literal["bf16", "fp32"]:
    """ "bf16" or "fp32": what `asked` ("auto", "bf16" or "fp32") means on this machine."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        # Cards before Ampere only emulate it, more slowly than they compute in float32.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if computes_bf16() else "fp32"


def compiles(settings: Optimisation) -> Literal["auto", "on", "off"]:
    """ "on" where transformer layers are compiled: if asked for, and by default on a GPU. On a CPU it gains nothing."""
    return (
        "on" if settings.performance.compile == "auto" and torch.cuda.is_available() else settings.performance.compile
    )


def on_this_machine(settings: Settings) -> Settings:
    """Return the settings with "auto" replaced by its meaning on this machine."""
    performance = replace(settings.performance, compile=compiles(settings))
    return replace(settings, precision=resolve_precision(settings.precision), performance=performance)


def seeded(*numbers: int) -> int:
    """One seed below 2**63 from a few small integers, different for different ones save for zeros at the end."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Batches:
    """Which rows make up which batch: a function of (seed, number of the batch), so that any step can be made again."""

    def __init__(self, lengths: np.ndarray, batch: int, bucket: int, seed: int) -> None:
        """`lengths` [N] in tokens; `bucket` batches are sorted by length together, 0 keeps the random order."""
        self.lengths, self.bucket, self.seed = lengths, bucket, seed
        self.size = min(batch, len(lengths))
        self._held: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), np.int64))

    def rows(self, number: int) -> np.ndarray:
        """Row numbers of batch `number`; every epoch is a new permutation, whose last incomplete batch is dropped."""
        epoch, index = divmod(number, len(self.lengths) // self.size)
        if self._held[0] != epoch:
            self._held = (epoch, self._epoch(epoch))
        return self._held[1][index]  # type: ignore[no-any-return]

    def _epoch(self, epoch: int) -> np.ndarray:
        """All batches of an epoch, [batches, size]."""
        random = np.random.default_rng([self.seed, epoch])
        count = len(self.lengths) // self.size
        rows = random.permutation(len(self.lengths))[: count * self.size]
        if not self.bucket:
            return rows.reshape(count, self.size)
        span = self.bucket * self.size
        windows = [rows[at : at + span] for at in range(0, len(rows), span)]
        ordered = [window[np.argsort(self.lengths[window], kind="stable")] for window in windows]
        return random.permutation(np.concatenate(ordered).reshape(count, self.size))


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """torch's deterministic algorithms while training; what a process encodes may not depend on its having trained.

    RetrobenchError where the model uses an operation that has none.
    """
    guard: Any = torch.utils.deterministic
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flash, fill = torch.backends.cuda.flash_sdp_enabled(), guard.fill_uninitialized_memory  # type: ignore[no-untyped-call]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with this
    # Never with warn_only: on a GPU fused attention then keeps backward passes that differ from run to run.
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_flash_sdp(torch.cuda.is_available())  # despite its name this rules the CPU's kernel too
    guard.fill_uninitialized_memory = False  # meant for debugging, it writes all memory twice
    try:
        yield
    except RuntimeError as error:
        operation, told, _ = str(error).partition(" does not have a deterministic implementation")
        if not told:
            raise
        raise RetrobenchError(
            f"The model uses {operation}, of which torch has no version here that repeats its results, so no run of it "
            "could be made again. Let the objective use another operation."
        ) from error
    finally:
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        torch.backends.cuda.enable_flash_sdp(flash)
        guard.fill_uninitialized_memory = fill


class Loop:
    """One training at work. What a step does depends on its number and on what the steps before it left, on no more."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        collate: Collate,
        settings: Optimisation,
        seed: int,
    ) -> None:
        """As `train` has it; `settings` in steps or epochs, their precision and compilation resolved or not."""
        processes.join()
        # Fine-tuning by [CLS] leaves out the head; a process would wait for its gradients for ever.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(kwargs_handlers=[unused])
        self.settings = settings.resolved(len(batches.lengths), self.accelerator.num_processes)
        self.halved = resolve_precision(settings.precision) == "bf16"
        model.to(self.accelerator.device).train()
        if compiles(settings) == "on":
            _compile_layers(model)
        rate, decay = settings.learning_rate, settings.weight_decay
        self.optimizer = torch.optim.AdamW(_decayed(model, decay), lr=rate, fused=True)
        self.prepared, self.adam = self.accelerator.prepare(model, self.optimizer)
        self.batches, self.collate, self.seed = batches, collate, seed
        self.feed = _Feed(self._make, AHEAD[self.accelerator.device.type])
        self.tokens = self.waited = 0.0

    def step(self, number: int) -> tuple[list[tuple[Step, np.ndarray]], Tensor]:
        """Optimizer step `number`, counted from 0: what each forward gave with the rows it was of, and the norm of the
        gradient before clipping. Nothing here waits for the device, but ModernBERT for its mask."""
        settings, where, outs = self.settings, self.accelerator.device.type, []
        for group in self.adam.param_groups:
            group["lr"] = settings.rate(number)
        for micro in range(number * settings.accumulation, (number + 1) * settings.accumulation):
            began = time.perf_counter()
            rows, draw, batch, tokens = self.feed.take(micro, settings.steps * settings.accumulation)
            batch = map_tensors(batch, partial(Tensor.to, device=self.accelerator.device, non_blocking=True))
            self.waited += time.perf_counter() - began
            self.tokens += tokens
            torch.manual_seed(draw)
            last = micro == (number + 1) * settings.accumulation - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.prepared):
                with torch.autocast(where, torch.bfloat16, enabled=self.halved):
                    out: Step = self.prepared(number / settings.steps, **batch)
                total = torch.stack([value.float() for value in out.losses.values()]).sum()
                self.accelerator.backward(total / settings.accumulation)
            outs.append((out, rows))
        norm = self.accelerator.clip_grad_norm_(self.prepared.parameters(), settings.clip or float("inf"))
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return outs, norm

    def taken(self) -> float:
        """Tokens of all processes since this was last asked, which all of them have to do."""
        tokens = torch.tensor(self.tokens, dtype=torch.float64, device=self.accelerator.device)
        self.tokens = 0.0
        return float(self.accelerator.reduce(tokens))

    def _make(self, micro: int) -> _Batch:
        """Micro-batch `micro` of this process, counted through all steps."""
        step, part = divmod(micro, self.settings.accumulation)
        rank = self.accelerator.process_index
        rows = self.batches.rows(micro * self.accelerator.num_processes + rank)
        draw = seeded(self.seed, step, part, rank)
        batch = self.collate(rows, torch.Generator().manual_seed(draw))
        tokens = _tokens(batch)
        if self.accelerator.device.type == "cuda":
            batch = map_tensors(batch, Tensor.pin_memory)
        return rows, draw, batch, tokens


_Batch = tuple[np.ndarray, int, Mapping[str, Any], float]


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with `function` applied to each tensor in it, in mappings and in named tuples."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: map_tensors(value, function) for name, value in batch.items()}
    if isinstance(batch, tuple):
        values = [map_tensors(value, function) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
    return batch


def _tokens(batch: Any) -> float:
    """Return the number of real tokens in a batch: the sum of every attention mask in it."""
    if isinstance(batch, tuple) and hasattr(batch, "_asdict"):
        batch = batch._asdict()
    if isinstance(batch, tuple):
        return sum(map(_tokens, batch))
    if not isinstance(batch, Mapping):
        return 0.0
    total = 0.0
    for name, value in batch.items():
        is_mask = isinstance(value, Tensor) and name.endswith("attention_mask")
        total += float(value.sum()) if is_mask else _tokens(value)
    return total


class _Feed:
    """Batches in their order; `ahead` of them are made on another thread while a device computes."""

    def __init__(self, make: Callable[[int], _Batch], ahead: int) -> None:
        self.make, self.ahead = make, ahead
        self.pool = ThreadPoolExecutor(1) if ahead else None
        self.waiting: dict[int, Future[_Batch]] = {}

    def take(self, number: int, end: int) -> _Batch:
        """Batch `number` of those below `end`."""
        if self.pool is None:
            return self.make(number)
        for coming in range(number, min(number + self.ahead + 1, end)):
            if coming not in self.waiting:
                self.waiting[coming] = self.pool.submit(self.make, coming)
        return self.waiting.pop(number).result()


def _compile_layers(model: nn.Module) -> None:
    """Fuse what stands between the products of each transformer layer; one compilation serves all lengths."""
    for module in model.modules():
        if isinstance(module, Backbone):
            for layer in module.layers:
                layer.compile(dynamic=True)


@deterministic()
def train(
    model: nn.Module,
    batches: Batches,
    collate: Collate,
    settings: Optimisation,
    folder: Path,
    seed: int,
    names: Callable[[np.ndarray], Sequence[str]],
    label: str,
) -> dict[str, float]:
    """Minimise the sum of the losses of `model(progress, **batch)` for `settings.steps` optimizer steps, or for as
    many as `settings.epochs` come to.

    `collate(rows, generator)` makes the batch of some rows, `names(rows)` their document ids. Checkpoints go to
    `folder`, where they stay until `checkpoints.discard`, and the last one found there is continued from, bit for bit.
    Gives the cost: seconds, tokens of all processes, those per second, seconds spent waiting for data, and on a GPU its
    peak memory in bytes.
    DivergedError at a loss or gradient that is not finite.
    """
    loop = Loop(model, batches, collate, settings, seed)
    if settings.epochs:
        say(f"{label}: {loop.settings.steps:,} steps, {settings.epochs:g} times over {len(batches.lengths):,} examples")
    settings = loop.settings
    done, cost = load(folder, model, loop.optimizer, loop.accelerator.device)
    began = time.perf_counter() - cost["seconds"]
    ledger = _Ledger(folder, settings, label)
    loop.waited = cost["data_seconds"]
    with bar(label, settings.steps, "steps", done) as advance:
        for step in range(done, settings.steps):
            outs, norm = loop.step(step)
            for out, rows in outs:
                ledger.add(step, out, names(rows))
            ledger.gradient(norm)
            advance(1)
            saves = (step + 1) % settings.checkpoint_every == 0 and step + 1 < settings.steps
            if saves or (step + 1) % settings.log_every == 0 or step + 1 == settings.steps:
                ledger.settle()
            if saves or step + 1 == settings.steps:
                # Those before are in the cost already: every process read the total of all from a checkpoint.
                cost |= {"tokens": cost["tokens"] + loop.taken(), "data_seconds": loop.waited}
                cost |= {"seconds": time.perf_counter() - began}
            if saves and processes.leads():
                save(folder, step + 1, model, loop.optimizer, cost)
    return {**cost, "tokens_per_second": cost["tokens"] / max(cost["seconds"], 1e-9), **gpu_memory()}


class _Ledger:
    """Losses of the last steps, left on the device until they are read together: reading waits for the device."""

    def __init__(self, folder: Path, settings: Optimisation, label: str) -> None:
        self.folder, self.settings, self.label = folder, settings, label
        self.pending: list[tuple[int, dict[str, Tensor], dict[str, Tensor], Sequence[str]]] = []

    def add(self, step: int, out: Step, names: Sequence[str]) -> None:
        losses, metrics = ({k: v.detach() for k, v in part.items()} for part in out)
        self.pending.append((step, losses, metrics, names))

    def gradient(self, norm: Tensor) -> None:
        """The norm before clipping: where it is not finite it spoils the weights, however good the loss looked."""
        self.pending[-1][1]["gradient_norm"] = norm.detach()

    def settle(self) -> None:
        """Log what is due, and stop at the first loss or gradient that is not finite."""
        with open(self.folder / "log.jsonl" if processes.leads() else os.devnull, "a") as log:
            for step, losses, metrics, names in self.pending:
                values = {name: float(value) for name, value in losses.items()}
                if not all(map(np.isfinite, values.values())):
                    raise _diverged(self.label, step, values, names, self.folder)
                if step % self.settings.log_every == 0 or step == self.settings.steps - 1:
                    values |= {name: float(value) for name, value in metrics.items()}
                    log.write(json.dumps({"step": step, "rate": self.settings.rate(step), **values}) + "\n")
        self.pending.clear()


def _decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups; biases and norms, the vectors among the parameters, do not decay (transformers' rule)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _diverged(label: str, step: int, values: dict[str, float], names: Sequence[str], folder: Path) -> DivergedError:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    last = checkpoints(folder)
    kept = f"the last good checkpoint is {last[-1]}" if last else "no checkpoint was written yet"
    losses = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return DivergedError(
        f"{label}: step {step} is not finite ({losses}); the batch held {shown}; {kept}. "
        "Lower the learning rate or look at these texts."
    )
