"""
How a case is measured: sides compared first, then timed in turn, and their memory taken apart from the timing.

* Setting            device and size of a run
* Case, Floor        what a benchmark hands over: two sides that do the same work, and what shows that they do
* Timed              what a side gives that takes the time itself
* measured           a case to numbers
* UnequalError       sides that differ; nothing is timed then
* gradients, close, gradients_close, steps_alike   what most cases compare
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from retrobench.bench.ceilings import Ceilings
from retrobench.errors import RetrobenchError
from retrobench.training import resolve_precision

__all__ = [
    "Case",
    "Floor",
    "Measured",
    "Setting",
    "Timed",
    "UnequalError",
    "close",
    "gradients",
    "gradients_close",
    "measured",
    "steps_alike",
]

ROUNDS = 7  # of each side; the median counts
SUMMING, ROUNDING = (1e-5, 1e-4), (2e-3, 0.05)  # what losses and gradients may be apart by


class UnequalError(RetrobenchError):
    """Two sides of a case do not do the same."""

    exit_code = 1


@dataclass(frozen=True)
class Setting:
    """Where to measure, and whether only equality is asked for, on small data."""

    device: Literal["cpu", "cuda"]
    smoke: bool = False

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"


@dataclass(frozen=True)
class Floor:
    """What one unit of work needs at least: FLOPs of matrix products in a precision, bytes read and written."""

    flops: float = 0.0
    bytes: float = 0.0
    precision: Literal["bf16", "fp32"] = "bf16"


class Timed(NamedTuple):
    """A round by a side that takes the time itself: its workers had to get going first, or it was timed before."""

    units: float
    seconds: float


Side = Callable[[], float | Timed]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two sides that do the same work; each call does a round of it and gives the units done.

    `check` raises UnequalError unless they agree, and says what it compared. `kind` "rate" is units a second, more is
    better; "seconds" is the time of a round, less is better; "bytes" is the peak memory of a round. Without a `peer`
    ours stands alone. Where the peer is other work, `allowed` is the ratio that arithmetic allows, and the share of the
    floor is of that. `says` is asked after the rounds for what they mean.
    """

    name: str
    unit: str
    ours: Side
    check: Callable[[], str]
    peer: Side | None = None
    peer_name: str | None = None
    kind: Literal["rate", "seconds", "bytes"] = "rate"
    floor: Floor | None = None
    allowed: float | None = None
    memory: bool = True  # of both sides, in a round of its own
    rounds: int = ROUNDS
    warmups: int = 1
    note: str = ""  # behind what was compared
    says: Callable[[], str] | None = None


@dataclass(frozen=True)
class Measured:
    """Medians over rounds; the ratio is the median of the rounds' own, which cancels what slows both sides."""

    ours: float
    peer: float | None
    ratio: float | None
    floor_share: float | None
    memory: dict[str, float] | None
    equal: str
    rounds: int
    spread: tuple[float, float] | None  # the least and the largest ratio of a round
    says: str = ""


def measured(case: Case, setting: Setting, ceilings: Callable[[], Ceilings]) -> Measured:
    """Compare, warm up, time in turn, take memory. UnequalError where the sides differ."""
    equal = case.check() + (f"; {case.note}" if case.note else "")
    sides: dict[str, Side] = {"ours": case.ours} | ({"peer": case.peer} if case.peer else {})
    rounds, warmups = (1, 0) if setting.smoke else (case.rounds, case.warmups)
    # Before the timing, so that it warms up too.
    memory = {name: _peak(side, setting) for name, side in sides.items()} if case.memory else None
    if case.kind == "bytes":
        assert memory is not None
        found = {name: [value] for name, value in memory.items()}
    else:
        for _ in range(warmups):
            for side in sides.values():
                side()
        found = _in_turn(sides, rounds, setting, case.kind)
    better = {"rate": 1, "seconds": -1, "bytes": -1}[case.kind]
    pairs = zip(found["ours"], found.get("peer", []), strict=False)
    ratios = [(ours / peer) ** better for ours, peer in pairs]
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratio = statistics.median(ratios) if ratios else None
    return Measured(
        medians["ours"],
        medians.get("peer"),
        ratio,
        ratio / case.allowed if ratio and case.allowed else _share(case, medians["ours"], ceilings),
        memory,
        equal,
        len(found["ours"]),
        (min(ratios), max(ratios)) if ratios else None,
        case.says() if case.says else "",
    )


def _in_turn(sides: Mapping[str, Side], rounds: int, setting: Setting, kind: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            _settle(setting)
            began = time.perf_counter()
            done = side()
            _settle(setting)
            took = time.perf_counter() - began
            units, seconds = done if isinstance(done, Timed) else (done, took)
            found[name].append(seconds if kind == "seconds" else units / seconds)
    return found


def _settle(setting: Setting) -> None:
    if setting.cuda:
        torch.cuda.synchronize()


def _share(case: Case, ours: float, ceilings: Callable[[], Ceilings]) -> float | None:
    if case.floor is None or case.kind != "rate":
        return None
    top = ceilings()
    floor = max(case.floor.flops / top.flops[case.floor.precision], case.floor.bytes / top.copy)
    return ours * floor


def _peak(side: Side, setting: Setting) -> float:
    """Bytes that a round of it holds at most, above what was held before."""
    gc.collect()
    if setting.cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    _give_back()
    with suppress(OSError):  # without the right to it the peak is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5")
    held = _status("VmRSS")
    side()
    return float(max(0, _status("VmHWM") - held))


def _give_back() -> None:
    """Return freed memory to the system, which an allocator told to keep it would count as held."""
    import ctypes

    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def close(ours: Tensor | float, peer: Tensor | float, within: float, what: str) -> str:
    """That two numbers or tensors differ by at most `within` times the peer's size; says by how much."""
    first, second = (torch.as_tensor(value).detach().double().cpu() for value in (ours, peer))
    size = float(second.norm()) or 1.0
    apart = float((first - second).norm()) / size
    if not apart <= within:
        raise UnequalError(
            f"{what}: ours and the peer's are {apart:.2g} apart, of at most {within:g}. Nothing was timed."
        )
    return f"{what} within {apart:.1g}"


def gradients_close(ours: Mapping[str, Tensor], peer: Mapping[str, Tensor], within: float) -> str:
    """The same of gradients by name, all of them; the largest difference is told of."""
    if ours.keys() != peer.keys():
        raise UnequalError(
            f"gradients of other parameters: {sorted(ours.keys() ^ peer.keys())[:3]}. Nothing was timed."
        )
    whole = torch.cat([value.flatten().double() for value in peer.values()]).norm().item()
    if not whole:
        raise UnequalError("gradients are all 0, which compares nothing. Nothing was timed.")
    apart = {name: (ours[name].double() - peer[name].double()).norm().item() / whole for name in peer}
    worst = max(apart, key=lambda name: apart[name])
    if not apart[worst] <= within:
        raise UnequalError(f"gradient of {worst}: {apart[worst]:.2g} apart, of at most {within:g}. Nothing was timed.")
    return f"gradients within {apart[worst]:.1g}"


def gradients(model: nn.Module, losses: Tensor) -> dict[str, Tensor]:
    """Those of the sum of the losses by each parameter that has one, on the CPU."""
    model.zero_grad(set_to_none=True)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


Step = tuple[Tensor, Mapping[str, Tensor]]  # losses, and gradients by name


def steps_alike(ours: Callable[[bool], Step], peer: Step, rounding: tuple[float, float] = ROUNDING) -> str:
    """Losses and gradients of ours beside the peer's in fp32; both without dropout.

    `ours(halved)` gives them in fp32, alike but for the order of sums, and under autocast to bf16, alike but for
    `rounding`, where training is in bf16: what is timed is then other code.
    """
    told = []
    for precision in dict.fromkeys(("fp32", resolve_precision("auto"))):
        within, slopes_within = rounding if precision == "bf16" else SUMMING
        losses, slopes = ours(precision == "bf16")
        same = close(losses, peer[0], within, "losses"), gradients_close(slopes, peer[1], slopes_within)
        told.append(f"{precision} {', '.join(same)}")
    return "; ".join(told)
