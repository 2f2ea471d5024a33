"""
How a case is measured: its sides are compared, then timed in turn; their memory is taken in a round of its own.

* Setting            device and size of a run
* Case, Floor        a benchmark's two sides that do the same work, and the check that they do
* Timed              returned by a side that measures its own time
* measured           a case to numbers
* UnequalError       raised where sides differ; nothing is timed then
* gradients, close, gradients_close, steps_alike, require   checks that cases share
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from retrobench.bench.memory import round_peak
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
    "require",
    "steps_alike",
]

ROUNDS = 7  # of each side; the median counts
SUMMING, ROUNDING = (1e-5, 1e-4), (2e-3, 0.05)  # tolerances of losses and gradients: order of sums, bf16

_T = TypeVar("_T")


class UnequalError(RetrobenchError):
    """Raised where the two sides of a case do not do the same."""

    exit_code = 1


@dataclass(frozen=True)
class Setting:
    """The device to measure on, and whether only equality is checked, on small data."""

    device: Literal["cpu", "cuda"]
    smoke: bool = False

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def choose(self, *, smoke: _T, cpu: _T, cuda: _T) -> _T:
        """Return the value of this setting; a smoke run has one for both devices."""
        if self.smoke:
            return smoke
        return cuda if self.cuda else cpu

    def start(self) -> float:
        """Return the time once the device has finished its work; the argument of `seconds`."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, start: float) -> float:
        """Return the seconds from `start` until the device has finished its work."""
        return self.start() - start


@dataclass(frozen=True)
class Floor:
    """The least that a unit of work needs: FLOPs of matrix products in a precision, bytes read and written."""

    flops: float = 0.0
    bytes: float = 0.0
    precision: Literal["bf16", "fp32"] = "bf16"


class Timed(NamedTuple):
    """Returned by a side that measures its own time: its workers have to start first, or it ran before."""

    units: float
    seconds: float


Side = Callable[[], float | Timed]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two sides that do the same work; each call does a round of it and returns the units done.

    `check` raises UnequalError unless the sides agree, and returns the facts it compared. `kind` "rate" is units a
    second, more is better; "seconds" is the time of a round, less is better; "bytes" is the peak memory of a round.
    Without a `peer` ours is measured alone. Where the peer does other work, `allowed` is the ratio that arithmetic
    allows, and the share of the floor is relative to it. `says` is called after the rounds to interpret them.
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
    note: str = ""  # printed behind the facts compared
    says: Callable[[], str] | None = None


@dataclass(frozen=True)
class Measured:
    """Medians over rounds; the ratio is the median of the rounds' ratios, which cancels a slowdown of both sides."""

    ours: float
    peer: float | None
    ratio: float | None
    floor_share: float | None
    memory: dict[str, float] | None
    equal: str
    rounds: int
    spread: tuple[float, float] | None  # the least and the largest ratio of a round
    says: str = ""


def measured(case: Case, setting: Setting, floor_seconds: Callable[[Floor], float]) -> Measured:
    """Compare the sides, take their memory, warm up, time them in turn.

    `floor_seconds` returns the least time of a floor on this machine. UnequalError where the sides differ.
    """
    equal = case.check()
    if case.note:
        equal += f"; {case.note}"
    sides: dict[str, Side] = {"ours": case.ours}
    if case.peer is not None:
        sides["peer"] = case.peer
    memory = None
    if case.memory:  # before the timing, so that it warms up too
        memory = {name: round_peak(side, setting.cuda) for name, side in sides.items()}
    if case.kind == "bytes":
        assert memory is not None
        rounds = {name: [peak] for name, peak in memory.items()}
    else:
        rounds = _in_turn(case, sides, setting)
    ours, peer = rounds["ours"], rounds.get("peer", [])
    ratios = [mine / other if case.kind == "rate" else other / mine for mine, other in zip(ours, peer, strict=False)]
    ratio = statistics.median(ratios) if ratios else None
    share = None
    if ratio and case.allowed:
        share = ratio / case.allowed
    elif case.floor and case.kind == "rate":
        share = statistics.median(ours) * floor_seconds(case.floor)
    return Measured(
        ours=statistics.median(ours),
        peer=statistics.median(peer) if peer else None,
        ratio=ratio,
        floor_share=share,
        memory=memory,
        equal=equal,
        rounds=len(ours),
        spread=(min(ratios), max(ratios)) if ratios else None,
        says=case.says() if case.says else "",
    )


def _in_turn(case: Case, sides: Mapping[str, Side], setting: Setting) -> dict[str, list[float]]:
    """Return the rate or the seconds of every round of each side."""
    warmups, rounds = (0, 1) if setting.smoke else (case.warmups, case.rounds)
    for _ in range(warmups):
        for side in sides.values():
            side()
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = setting.start()
            done = side()
            seconds = setting.seconds(start)
            timed = done if isinstance(done, Timed) else Timed(done, seconds)
            values[name].append(timed.seconds if case.kind == "seconds" else timed.units / timed.seconds)
    return values


def require(facts: Mapping[str, bool]) -> None:
    """Raise UnequalError with the names of the facts that do not hold."""
    wrong = [name for name, holds in facts.items() if not holds]
    if wrong:
        raise UnequalError(f"{', '.join(wrong)}: not the same on both sides. Nothing was timed.")


def close(ours: Tensor | float, peer: Tensor | float, tolerance: float, name: str) -> str:
    """Require that numbers or tensors differ by at most `tolerance` times the peer's size; return by how much."""
    mine, other = (torch.as_tensor(value).detach().double().cpu() for value in (ours, peer))
    apart = float((mine - other).norm()) / (float(other.norm()) or 1.0)
    if not apart <= tolerance:
        raise UnequalError(
            f"{name}: ours and the peer's are {apart:.2g} apart, of at most {tolerance:g}. Nothing was timed."
        )
    return f"{name} within {apart:.1g}"


def gradients_close(ours: Mapping[str, Tensor], peer: Mapping[str, Tensor], tolerance: float) -> str:
    """Require that gradients by name differ by at most `tolerance` times the norm of all; return the largest."""
    if ours.keys() != peer.keys():
        raise UnequalError(
            f"gradients of other parameters: {sorted(ours.keys() ^ peer.keys())[:3]}. Nothing was timed."
        )
    norm = torch.cat([value.flatten().double() for value in peer.values()]).norm().item()
    if not norm:
        raise UnequalError("gradients are all 0, which compares nothing. Nothing was timed.")
    apart = {name: (ours[name].double() - peer[name].double()).norm().item() / norm for name in peer}
    worst = max(apart, key=lambda name: apart[name])
    if not apart[worst] <= tolerance:
        raise UnequalError(
            f"gradient of {worst}: {apart[worst]:.2g} apart, of at most {tolerance:g}. Nothing was timed."
        )
    return f"gradients within {apart[worst]:.1g}"


def gradients(model: nn.Module, losses: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the sum of the losses, by parameter, of those that have one."""
    model.zero_grad(set_to_none=True)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


Step = tuple[Tensor, Mapping[str, Tensor]]  # losses, and gradients by name


def steps_alike(ours: Callable[[bool], Step], peer: Step, rounding: tuple[float, float] = ROUNDING) -> str:
    """Compare losses and gradients of ours with the peer's in fp32, both without dropout.

    `ours(halved)` returns them in fp32, or under autocast to bf16. In fp32 only the order of sums may differ. Where
    training is in bf16, which other code computes, that code is compared too, within `rounding`.
    """
    reports = []
    for precision in dict.fromkeys(("fp32", resolve_precision("auto"))):
        loss_tolerance, gradient_tolerance = rounding if precision == "bf16" else SUMMING
        losses, slopes = ours(precision == "bf16")
        losses_report = close(losses, peer[0], loss_tolerance, "losses")
        gradients_report = gradients_close(slopes, peer[1], gradient_tolerance)
        reports.append(f"{precision} {losses_report}, {gradients_report}")
    return "; ".join(reports)
