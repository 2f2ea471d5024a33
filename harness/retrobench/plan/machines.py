"""Machines to plan for: what they could do, what share of it training reaches, and where each figure comes from."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from retrobench import leaderboard
from retrobench.config import read_track
from retrobench.core import computes_bf16, processor_name
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard import Row
from retrobench.plan.arithmetic import KNOWN_OBJECTIVES, encoding, pretraining, training
from retrobench.plan.inventory import shape_of
from retrobench.store import default_root

__all__ = ["HARDWARE", "Machine", "Shares", "find", "recorded", "this"]

GIB = 2.0**30


@dataclass(frozen=True)
class Shares:
    """What part of the peak each kind of work reaches, counting real tokens in batches without padding."""

    pretrain: float
    finetune: float
    encode: float
    source: str


@dataclass(frozen=True)
class Machine:
    """One accelerator, or one machine without."""

    name: str
    peak: float  # FLOP/s of large matrix products in the precision that training takes; 0 where it is not known
    peak_source: str
    memory: float  # bytes for models and activations: the card's, or the machine's where there is none
    shares: Shares
    gpu: bool = True
    bf16: bool = True
    cores: int = 16  # beside a card, about as in NVIDIA's own machines
    host: float = 0.0  # bytes of main memory; 0 where it is not known
    free: float = 0.0  # bytes free where the store is; 0 where it is not known
    warning: str = ""


# README of NVIDIA's DeepLearningExamples (21.11): 580 sequences of 128 tokens a second in fp16 on one A100-80G, which
# are 139 of the data sheet's 312 TFLOP/s.
_ANCHOR = Shares(0.45, 0.45, 0.45, "NVIDIA's BERT-large on an A100; not measured here")

_GPUS = {
    "h200": Machine("NVIDIA H200", 790e12, "bf16, measured on one, 8192 x 8192", 139 * GIB, _ANCHOR),
    "a100": Machine("NVIDIA A100 80GB", 312e12, "bf16, data sheet", 79 * GIB, _ANCHOR),
    "v100": Machine(
        "NVIDIA V100 32GB",
        15.7e12,
        "fp32, data sheet",
        31.7 * GIB,
        _ANCHOR,
        bf16=False,
        warning="no bf16 on a V100: retrobench takes fp32 there, and its 125 TFLOP/s in fp16 stay unused",
    ),
}
HARDWARE = (*_GPUS, "this")

# Where no row was made on the processor: masked language modelling of a BERT 4 layers deep and 256 wide, in bf16,
# reached 312 of 882 GFLOP/s on two EPYC cores.
_ELSEWHERE = Shares(0.35, 0.35, 0.35, "a small BERT on two EPYC cores; no row of mini is by this processor")
_BF16 = 4.4  # times fp32 on those cores


def find(name: str, board: Path | None = None) -> Machine:
    """The machine of that name; `this` is measured, in a second or two. RetrobenchError for a name not in HARDWARE."""
    if name not in HARDWARE:
        raise unknown("hardware", name, HARDWARE)
    return this(board, thorough=True) if name == "this" else _GPUS[name]


def this(board: Path | None = None, thorough: bool = False) -> Machine:
    """This machine. Only if `thorough`, torch is loaded, to measure in the precision that training takes."""
    cores, host = os.cpu_count() or 1, float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    card, free = _card(), _free(default_root())
    if card is None:
        peak, source = _measured("cpu") if thorough else _glance()
        name, shares = f"{processor_name()}, {cores} cores, no GPU", recorded(peak / cores, board)
        return Machine(name, peak, source, host, shares, False, computes_bf16(), cores, host, free)
    known = next((gpu for key, gpu in _GPUS.items() if key.upper() in card[0]), None)
    peak, source = (known.peak, known.peak_source) if known else (0.0, "")
    if thorough:
        peak, source = _measured("cuda")
    about = (known.bf16, known.warning) if known else (True, "")
    return Machine(card[0], peak, source, card[1], _ANCHOR, True, about[0], cores, host, free, about[1])


def _card() -> tuple[str, float] | None:
    """Name and bytes of the first GPU, where this environment's torch was built for one."""
    if "+cpu" in version("torch") or not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    name, comma, mebibytes = listed[0].rpartition(",") if listed else ("", "", "")
    return (name.strip(), float(mebibytes) * 2**20) if comma else None


def _free(folder: Path) -> float:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return float(shutil.disk_usage(there).free)


def _measured(device: str) -> tuple[float, str]:
    import torch

    halved = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else computes_bf16()
    size = 8192 if device == "cuda" else 1536
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if halved else torch.float32)

    def product() -> None:
        torch.mm(matrix, matrix)
        if device == "cuda":
            torch.cuda.synchronize()

    return _rate(size, product, 1.0), f"{'bf16' if halved else 'fp32'}, measured now, {size} x {size}"


def _glance() -> tuple[float, str]:
    matrix = np.full((640, 640), 0.5, np.float32)
    rate = _rate(640, lambda: matrix @ matrix, 0.5)
    if computes_bf16():
        return _BF16 * rate, f"bf16, taken as {_BF16} x fp32, measured now"
    return rate, "fp32, measured now, 640 x 640"


def _rate(size: int, product: Callable[[], object], seconds: float) -> float:
    """FLOP/s of the quickest product of two square matrices that `seconds` leave time for."""
    product()  # the first one starts threads and fills caches
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def recorded(peak: float, board: Path | None = None, processor: str = "") -> Shares:
    """What the rows of the track mini that were made on `processor` reached of `peak`, both FLOP/s of one core."""
    processor = processor or processor_name()
    rates: dict[str, list[float]] = {"pretrain": [], "finetune": [], "encode": []}
    try:
        file = leaderboard.locate("mini", board)
        rows = leaderboard.read(file.parent)
    except RetrobenchError:  # another --leaderboard, or rows of another version: there is nothing to go by
        rows = []
    for row in rows:
        if row.hardware.get("processor") == processor and row.hardware.get("device") == "cpu" and not row.overrides:
            for stage, flops in _flops_per_token(row, file).items():
                reached = row.cost[stage]["tokens_per_second"] * flops / float(row.hardware["threads"])
                rates[stage].append(min(1.0, reached / peak))
    if not all(rates.values()):
        return _ELSEWHERE
    middle = {stage: statistics.median(found) for stage, found in rates.items()}
    return Shares(**middle, source=f"measured: {len(rates['encode'])} rows of mini on {processor}")


def _flops_per_token(row: Row, file: Path) -> dict[str, float]:
    """Stage -> FLOPs per token, of a row whose costs are known and whose vectors are [CLS]."""
    if row.representation != "cls" or "encode" not in row.cost:
        return {}
    track = read_track(file, "mini", [])
    shape, _ = shape_of(track.model.base, track.model)
    length = track.finetune.reading.passage_length
    found = {"finetune": training(shape, length), "encode": encoding(shape, length)}
    if row.objective in KNOWN_OBJECTIVES and "pretrain" in row.cost:
        length, ratio = track.pretrain.max_length, row.settings["mask_ratio"]
        found["pretrain"] = pretraining(shape, length, row.objective, ratio)
    return found
