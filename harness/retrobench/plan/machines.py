"""Describe machines to plan for: their peak rates, the shares that training reaches, and each figure's source."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from retrobench import leaderboard
from retrobench.config import read_track
from retrobench.core import computes_bf16, processor_name
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard import Row
from retrobench.plan.arithmetic import encoding, pretraining, training
from retrobench.plan.inventory import shape_of
from retrobench.plan.parts import KNOWN_OBJECTIVES, parts_of
from retrobench.store import default_root

__all__ = ["HARDWARE", "Machine", "Shares", "find", "measure_this_machine", "read_shares"]

GIB = 2.0**30


@dataclass(frozen=True)
class Shares:
    """Hold the share of the peak that each kind of work reaches, for tokens in batches without padding."""

    pretrain: float
    finetune: float
    encode: float
    source: str


@dataclass(frozen=True)
class Machine:
    """Describe one accelerator, or a machine without."""

    name: str
    peak: float  # FLOP/s of large matrix products in the precision of training; 0 if unknown
    peak_source: str
    memory: float  # bytes for models and activations: the GPU's, or main memory without a GPU
    shares: Shares
    gpu: bool = True
    bf16: bool = True
    cores: int = 16  # beside a GPU, about as many as in NVIDIA's own machines
    host: float = 0.0  # bytes of main memory; 0 if unknown
    free: float = 0.0  # free bytes on the store's disk; 0 if unknown
    warning: str = ""


# README of NVIDIA's DeepLearningExamples (21.11): 580 sequences of 128 tokens a second in fp16 on one A100-80G. They
# are 139 of the data sheet's 312 TFLOP/s.
_ANCHOR = Shares(0.45, 0.45, 0.45, "NVIDIA's BERT-large on an A100; not measured here")

_GPUS = {
    "h200": Machine("NVIDIA H200", 790e12, "bf16, measured on one, 8192 x 8192", 139 * GIB, _ANCHOR),
    "a100": Machine("NVIDIA A100 80GB", 312e12, "bf16, data sheet", 79 * GIB, _ANCHOR),
    "v100": Machine(
        "NVIDIA V100 32GB",
        125e12,
        "fp16, data sheet",
        31.7 * GIB,
        _ANCHOR,
        bf16=False,
        warning="no bf16 on a V100: retrobench uses fp16 there; in fp32 it computes 15.7 TFLOP/s",
    ),
}
HARDWARE = (*_GPUS, "this")

# For a processor without rows: masked language modelling of a BERT of 4 layers and width 256, in bf16, reached 312 of
# 882 GFLOP/s on two EPYC cores.
_DEFAULT_SHARES = Shares(0.35, 0.35, 0.35, "a small BERT on two EPYC cores; no row of mini is by this processor")
_BF16_SPEEDUP = 4.4  # over fp32, on those cores


def find(name: str, board: Path | None = None) -> Machine:
    """
    Return the machine of that name; `this` is measured in a second or two.

    Raises RetrobenchError for a name outside HARDWARE.
    """
    if name not in HARDWARE:
        raise unknown("hardware", name, HARDWARE)
    if name == "this":
        return measure_this_machine(board, thorough=True)
    return _GPUS[name]


def measure_this_machine(board: Path | None = None, thorough: bool = False) -> Machine:
    """Measure this machine. Only `thorough` loads torch, to measure in the precision of training."""
    gpu = _read_gpu()
    if gpu is None:
        return _measure_processor(board, thorough)
    name, memory = gpu
    similar = _find_similar_gpu(name)
    peak, source = similar.peak, similar.peak_source
    if thorough:
        peak, source = _measure_peak("cuda")
    return replace(
        similar,
        name=name,
        peak=peak,
        peak_source=source,
        memory=memory,
        cores=_count_cores(),
        host=_main_memory(),
        free=_free_bytes(default_root()),
    )


def _measure_processor(board: Path | None, thorough: bool) -> Machine:
    cores = _count_cores()
    peak, source = _measure_peak("cpu") if thorough else _measure_peak_by_numpy()
    memory = _main_memory()
    return Machine(
        name=f"{processor_name()}, {cores} cores, no GPU",
        peak=peak,
        peak_source=source,
        memory=memory,
        shares=read_shares(peak / cores, board),
        gpu=False,
        bf16=computes_bf16(),
        cores=cores,
        host=memory,
        free=_free_bytes(default_root()),
    )


def _find_similar_gpu(name: str) -> Machine:
    """Return the known GPU that the name mentions, or a GPU with an unknown peak."""
    for key, machine in _GPUS.items():
        if key.upper() in name:
            return machine
    return Machine(name, 0.0, "", 0.0, _ANCHOR)


def _count_cores() -> int:
    return os.cpu_count() or 1


def _main_memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _read_gpu() -> tuple[str, float] | None:
    """Return name and bytes of the first GPU, or None; a torch built without CUDA has none."""
    if "+cpu" in version("torch") or not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    process = subprocess.run(command, capture_output=True, text=True)
    lines = process.stdout.splitlines()
    if not lines or "," not in lines[0]:
        return None
    name, _, mebibytes = lines[0].rpartition(",")
    return name.strip(), float(mebibytes) * 2**20


def _free_bytes(folder: Path) -> float:
    """Return the free bytes on the disk of a folder that need not exist yet."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return float(shutil.disk_usage(existing).free)


def _measure_peak(device: str) -> tuple[float, str]:
    """Return FLOP/s of a matrix product by torch, and their source."""
    import torch

    from retrobench.training import resolve_precision

    size = 8192 if device == "cuda" else 1536
    precision = resolve_precision("auto")
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    matrix = torch.randn(size, size, device=device, dtype=dtypes[precision])

    def multiply() -> None:
        torch.mm(matrix, matrix)
        if device == "cuda":
            torch.cuda.synchronize()

    rate = _measure_rate(size, multiply, 1.0)
    return rate, f"{precision}, measured now, {size} x {size}"


def _measure_peak_by_numpy() -> tuple[float, str]:
    matrix = np.full((640, 640), 0.5, np.float32)
    rate = _measure_rate(640, lambda: matrix @ matrix, 0.5)
    if computes_bf16():
        return _BF16_SPEEDUP * rate, f"bf16, taken as {_BF16_SPEEDUP} x fp32, measured now"
    return rate, "fp32, measured now, 640 x 640"


def _measure_rate(size: int, multiply: Callable[[], object], seconds: float) -> float:
    """Return FLOP/s of the fastest product of two square matrices within `seconds`."""
    multiply()  # the first product starts threads and fills caches
    fastest = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        multiply()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def read_shares(peak: float, board: Path | None = None, processor: str = "") -> Shares:
    """Return the shares of `peak`, in FLOP/s of a core, that the rows of the track mini reached on `processor`."""
    processor = processor or processor_name()
    rates: dict[str, list[float]] = {"pretrain": [], "finetune": [], "encode": []}
    try:
        file = leaderboard.locate("mini", board)
        rows = leaderboard.read(file.parent)
    except RetrobenchError:  # another --leaderboard, or rows of another version
        return _DEFAULT_SHARES
    for row in rows:
        same_processor = row.hardware.get("processor") == processor
        on_cpu = row.hardware.get("device") == "cpu"
        if row.overrides or not (same_processor and on_cpu):
            continue
        for stage, flops in _flops_per_token(row, file).items():
            threads = float(row.hardware["threads"])
            flops_per_second = row.cost[stage]["tokens_per_second"] * flops / threads
            rates[stage].append(min(1.0, flops_per_second / peak))
    if not all(rates.values()):
        return _DEFAULT_SHARES
    return Shares(
        pretrain=statistics.median(rates["pretrain"]),
        finetune=statistics.median(rates["finetune"]),
        encode=statistics.median(rates["encode"]),
        source=f"measured: {len(rates['encode'])} rows of mini on {processor}",
    )


def _flops_per_token(row: Row, file: Path) -> dict[str, float]:
    """Return stage -> FLOPs per token, for a row with known costs and [CLS] vectors."""
    if row.representation != "cls" or "encode" not in row.cost:
        return {}
    track = read_track(file, "mini", [])
    shape, _ = shape_of(track.model.base, track.model)
    passage_length = track.finetune.reading.passage_length
    flops = {
        "finetune": training(shape, passage_length),
        "encode": encoding(shape, passage_length),
    }
    if row.objective in KNOWN_OBJECTIVES and "pretrain" in row.cost:
        parts = parts_of(row.objective, row.settings)
        flops["pretrain"] = pretraining(shape, track.pretrain.max_length, parts)
    return flops
