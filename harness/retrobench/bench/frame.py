"""
How a case is measured: its sides are compared, then timed in turn; their memory is taken in a round of its own.

* Case, Floor               two sides that do equal work, the check that they do, and the least work there is
* Timed                     returned by a side that measures its own time
* measure                   run a case; returns a `Measured`
* UnequalError              raised where sides differ; nothing is timed then
* require                   check facts by name
* require_close             check that two numbers or tensors are close
* compute_gradients         the gradients of a model, by parameter
* half_precision            the half precision of this machine
* loss_scale                the scale of losses for a backward pass
* require_close_gradients   check that two sides have close gradients
* require_equal_steps       check losses and gradients, in each precision that is timed
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from retrobench.bench.memory import measure_peak
from retrobench.bench.setting import Setting
from retrobench.config import ResolvedPrecision
from retrobench.errors import RetrobenchError
from retrobench.training import resolve_precision

__all__ = [
    "Case",
    "Floor",
    "Measured",
    "StepResult",
    "Timed",
    "Tolerances",
    "UnequalError",
    "compute_gradients",
    "half_precision",
    "loss_scale",
    "measure",
    "require",
    "require_close",
    "require_close_gradients",
    "require_equal_steps",
]

ROUNDS = 7  # of each side; the median counts

_T = TypeVar("_T")


class UnequalError(RetrobenchError):
    """Raised where the two sides of a case differ."""

    exit_code = 1


@dataclass(frozen=True)
class Floor:
    """The least that a unit of work needs: FLOPs of matrix products in a precision, bytes read and written."""

    flops: float = 0.0
    bytes: float = 0.0
    precision: ResolvedPrecision | Literal["int8"] = "bf16"


class Timed(NamedTuple):
    """Returned by a side that measures its own time: its workers start first, or its rounds ran earlier."""

    units: float
    seconds: float


Side = Callable[[], float | Timed]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two sides that do equal work; each call runs a round and returns the units finished.

    `check` raises UnequalError unless the sides agree, and returns the facts it compared. `kind` "rate" is units a
    second, more is better; "seconds" is the time of a round, less is better; "bytes" is the peak memory of a round.
    Without a `peer` ours is measured alone. Where the peer does different work, `allowed` is the ratio that arithmetic
    allows, and the share of the floor is relative to it. `interpret` is called after the rounds to explain them.
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
    interpret: Callable[[], str] | None = None


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


def measure(case: Case, setting: Setting, floor_seconds: Callable[[Floor], float]) -> Measured:
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
        memory = {name: measure_peak(side, setting.cuda) for name, side in sides.items()}
    if case.kind == "bytes":
        assert memory is not None
        rounds = {name: [peak] for name, peak in memory.items()}
    else:
        rounds = _time_in_turn(case, sides, setting)
    ours = statistics.median(rounds["ours"])
    peer = None
    ratio = None
    spread = None
    if "peer" in rounds:
        ratios = _ratios(case, rounds)
        peer = statistics.median(rounds["peer"])
        ratio = statistics.median(ratios)
        spread = (min(ratios), max(ratios))
    return Measured(
        ours=ours,
        peer=peer,
        ratio=ratio,
        floor_share=_floor_share(case, ours, ratio, floor_seconds),
        memory=memory,
        equal=equal,
        rounds=len(rounds["ours"]),
        spread=spread,
        says=case.interpret() if case.interpret else "",
    )


def _time_in_turn(case: Case, sides: Mapping[str, Side], setting: Setting) -> dict[str, list[float]]:
    """Return the rate or the seconds of every round of each side."""
    warmups = 0 if setting.smoke else case.warmups
    for _ in range(warmups):
        for side in sides.values():
            side()
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(setting.count_rounds(case.rounds)):
        if number and setting.is_over():
            break
        for name, side in sides.items():
            timed = _time_round(side, setting)
            if case.kind == "seconds":
                values[name].append(timed.seconds)
            else:
                values[name].append(timed.units / timed.seconds)
    return values


def _time_round(side: Side, setting: Setting) -> Timed:
    start = setting.start()
    units = side()
    seconds = setting.seconds(start)
    if isinstance(units, Timed):
        return units
    return Timed(units, seconds)


def _ratios(case: Case, rounds: Mapping[str, list[float]]) -> list[float]:
    """Return each round's ratio, above 1 where ours is better."""
    pairs = zip(rounds["ours"], rounds["peer"], strict=True)
    if case.kind == "rate":
        return [ours / peer for ours, peer in pairs]
    return [peer / ours for ours, peer in pairs]


def _floor_share(case: Case, ours: float, ratio: float | None, floor_seconds: Callable[[Floor], float]) -> float | None:
    """Return the ratio over the ratio allowed, or the least time over ours; None for a case without a floor."""
    if ratio and case.allowed:
        return ratio / case.allowed
    if case.floor and case.kind == "rate":
        return ours * floor_seconds(case.floor)
    return None


def require(facts: Mapping[str, bool]) -> None:
    """Raise UnequalError with the names of the facts that do not hold."""
    wrong = [name for name, holds in facts.items() if not holds]
    if wrong:
        raise UnequalError(f"{', '.join(wrong)}: not the same on both sides. Nothing was timed.")


def require_close(ours: Tensor | float, peer: Tensor | float, tolerance: float, name: str) -> str:
    """Require that numbers or tensors differ by at most `tolerance` times the peer's size; return by how much."""
    expected = _to_double(peer)
    size = float(expected.norm()) or 1.0
    difference = float((_to_double(ours) - expected).norm()) / size
    if not difference <= tolerance:  # NaN too
        raise UnequalError(
            f"{name}: ours and the peer's are {difference:.2g} apart, of at most {tolerance:g}. Nothing was timed."
        )
    return f"{name} within {difference:.1g}"


def _to_double(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value).detach().double().cpu()


def require_close_gradients(ours: Mapping[str, Tensor], peer: Mapping[str, Tensor], tolerance: float) -> str:
    """Require that gradients by name differ by at most `tolerance` times the norm of all; return the largest."""
    if ours.keys() != peer.keys():
        unmatched = sorted(ours.keys() ^ peer.keys())
        raise UnequalError(f"gradients of other parameters: {unmatched[:3]}. Nothing was timed.")
    flat_gradients = [gradient.flatten().double() for gradient in peer.values()]
    norm = torch.cat(flat_gradients).norm().item()
    if not norm:
        raise UnequalError("gradients are all 0, which compares nothing. Nothing was timed.")
    differences = {}
    for name, expected in peer.items():
        difference = ours[name].double() - expected.double()
        differences[name] = difference.norm().item() / norm
    worst = max(differences, key=lambda name: differences[name])
    largest = differences[worst]
    if not largest <= tolerance:
        raise UnequalError(f"gradient of {worst}: {largest:.2g} apart, of at most {tolerance:g}. Nothing was timed.")
    return f"gradients within {largest:.1g}"


def compute_gradients(model: nn.Module, losses: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the sum of the losses, by parameter; parameters without a gradient are left out."""
    model.zero_grad(set_to_none=True)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad
    return gradients


def half_precision() -> ResolvedPrecision:
    """Return the half precision of this machine: fp16 on a GPU without bf16."""
    return "fp16" if resolve_precision("auto") == "fp16" else "bf16"


def loss_scale(precision: ResolvedPrecision) -> float:
    """Return the scale of losses for a backward pass; in fp16 without one, small gradients would be 0."""
    return 1024.0 if precision == "fp16" else 1.0


class StepResult(NamedTuple):
    """Losses, and gradients of `scale` times the losses by name."""

    losses: Tensor
    gradients: Mapping[str, Tensor]
    scale: float = 1.0


class Tolerances(NamedTuple):
    """The relative differences allowed between two sides."""

    losses: float
    gradients: float


SUMMING = Tolerances(1e-5, 1e-4)  # only the order of sums may differ
ROUNDING = Tolerances(2e-3, 0.05)  # bf16 and fp16


def require_equal_steps(
    ours: Callable[[ResolvedPrecision], StepResult], peer: StepResult, rounding: Tolerances = ROUNDING
) -> str:
    """Compare losses and gradients of ours with the peer's in fp32, both without dropout.

    `ours(precision)` returns them under autocast. In fp32 only the order of sums may differ. Training in half precision
    runs through other code, so it is compared too, within `rounding`.
    """
    reports = []
    precisions: tuple[ResolvedPrecision, ...] = ("fp32", resolve_precision("auto"))
    for precision in dict.fromkeys(precisions):
        tolerances = SUMMING if precision == "fp32" else rounding
        result = ours(precision)
        losses_report = require_close(result.losses, peer.losses, tolerances.losses, "losses")
        gradients = {name: gradient / result.scale for name, gradient in result.gradients.items()}
        gradients_report = require_close_gradients(gradients, peer.gradients, tolerances.gradients)
        reports.append(f"{precision} {losses_report}, {gradients_report}")
    return "; ".join(reports)
