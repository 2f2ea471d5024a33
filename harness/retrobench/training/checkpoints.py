"""Checkpoints of a training: safetensors, written aside and renamed, so that a name never stands over half of one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from retrobench.core import atomic_write, move, processes, say, sync

__all__ = ["checkpoints", "discard", "load", "save"]


def checkpoints(folder: Path) -> list[Path]:
    """The finished ones in `folder`, the last of which counts."""
    return sorted(folder.glob("step-*[0-9]"))


def discard(folder: Path) -> None:
    """Remove the checkpoints in `folder`, once what they led to is written."""
    for checkpoint in checkpoints(folder):
        _discard(checkpoint)


def _discard(checkpoint: Path) -> None:
    """Rename the checkpoint before removing it, so that its name never stands over half of one."""
    aside = checkpoint.with_suffix(".old")
    move(checkpoint, aside)
    shutil.rmtree(aside)


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, cost: dict[str, float]) -> None:
    """Weights, buffers and moments as safetensors, written aside and renamed; the previous checkpoint goes last."""
    aside = folder / f"step-{step:09d}.new"
    aside.mkdir()
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, aside / "state.safetensors")
    (aside / "state.json").write_text(json.dumps({"step": step, "cost": cost}))
    earlier = checkpoints(folder)
    # Else a power cut could keep the new name, lose the bytes behind it and find the earlier ones gone.
    sync(aside)
    move(aside, folder / f"step-{step:09d}")
    for old in earlier:
        _discard(old)


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, where: torch.device
) -> tuple[int, dict[str, float]]:
    """Continue from the last checkpoint in `folder`, if any; gives the steps done and the cost so far."""
    if processes.leads():
        for half in (*folder.glob("step-*.new"), *folder.glob("step-*.old")):
            shutil.rmtree(half)
    processes.meet()
    found, log = checkpoints(folder), folder / "log.jsonl"
    if not found:
        if processes.leads():
            log.unlink(missing_ok=True)
        return 0, {"seconds": 0.0, "data_seconds": 0.0, "tokens": 0.0}
    state = json.loads((found[-1] / "state.json").read_text())
    # Of several processes accelerate numbers even the processor, and safetensors knows no "cpu:0".
    device = "cpu" if where.type == "cpu" else str(where)
    tensors = load_file(found[-1] / "state.safetensors", device=device)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for name, parameter in model.named_parameters():
        suffix = f".{name}"
        moments = {k[len("optimizer.") : -len(suffix)]: v for k, v in tensors.items() if _is_moment(k, suffix)}
        if moments:
            optimizer.state[parameter] = moments
    if processes.leads() and log.exists():
        _cut(log, state["step"])
    say(f"continuing at step {state['step']}")
    return state["step"], state["cost"]


def _cut(log: Path, step: int) -> None:
    """Drop the log's lines of steps that will be made again, which would stand there twice, and a half-written line."""
    lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
    atomic_write(log, [line + "\n" for line in lines if json.loads(line)["step"] < step])


def _is_moment(key: str, suffix: str) -> bool:
    return (
        key.startswith("optimizer.") and key.endswith(suffix) and key[len("optimizer.") : -len(suffix)].isidentifier()
    )
