"""Checkpoints of a training, in safetensors. A checkpoint is written aside and renamed, so its name means complete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retrobench.core import atomic_write, move, processes, say, sync
from retrobench.training.loss_scale import LossScale

__all__ = ["checkpoints", "discard", "load", "save"]

_MODEL, _OPTIMIZER = "model.", "optimizer."  # prefixes of the tensors' names


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in `folder`, the newest last."""
    return sorted(folder.glob("step-*[0-9]"))


def discard(folder: Path) -> None:
    """Remove the checkpoints in `folder`, once the trained encoder is written."""
    for checkpoint in checkpoints(folder):
        _discard(checkpoint)


def _discard(checkpoint: Path) -> None:
    """Rename the checkpoint before removing it, so that its name never means a half-removed folder."""
    aside = checkpoint.with_suffix(".old")
    move(checkpoint, aside)
    shutil.rmtree(aside)


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_scale: LossScale,
    cost: dict[str, float],
) -> None:
    """Write weights, buffers, the optimizer's moments and the loss scale, then remove the earlier checkpoints."""
    aside = folder / f"step-{step:09d}.new"
    aside.mkdir()
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, moment in optimizer.state.get(parameter, {}).items():
            tensors[f"{_OPTIMIZER}{key}.{name}"] = moment
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, aside / "state.safetensors")
    state = {"step": step, "cost": cost, "loss_scale": loss_scale.state()}
    (aside / "state.json").write_text(json.dumps(state))
    earlier = checkpoints(folder)
    # Without this a power cut could lose the bytes behind the new name, with the earlier checkpoints removed.
    sync(aside)
    move(aside, folder / f"step-{step:09d}")
    for checkpoint in earlier:
        _discard(checkpoint)


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, loss_scale: LossScale, device: torch.device
) -> tuple[int, dict[str, float]]:
    """Resume from the newest checkpoint in `folder`, if any, and return the steps done and the cost so far."""
    if processes.leads():
        for unfinished in (*folder.glob("step-*.new"), *folder.glob("step-*.old")):
            shutil.rmtree(unfinished)
    processes.meet()
    finished = checkpoints(folder)
    log = folder / "log.jsonl"
    if not finished:
        if processes.leads():
            log.unlink(missing_ok=True)
        return 0, {"seconds": 0.0, "data_seconds": 0.0, "tokens": 0.0}
    state = json.loads((finished[-1] / "state.json").read_text())
    _restore(finished[-1], model, optimizer, device)
    loss_scale.restore(state.get("loss_scale", {}))  # checkpoints of earlier versions have none
    if processes.leads() and log.exists():
        _cut(log, state["step"])
    say(f"continuing at step {state['step']}")
    return state["step"], state["cost"]


def _restore(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    # accelerate numbers even processors when there are several processes, and safetensors knows no "cpu:0".
    device_name = "cpu" if device.type == "cpu" else str(device)
    tensors = load_file(checkpoint / "state.safetensors", device=device_name)
    weights = {}
    for name, tensor in tensors.items():
        if name.startswith(_MODEL):
            weights[name.removeprefix(_MODEL)] = tensor
    model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        moments = _moments(tensors, name)
        if moments:
            optimizer.state[parameter] = moments


def _moments(tensors: dict[str, Tensor], parameter: str) -> dict[str, Tensor]:
    """Return the optimizer's moments of a parameter, by their keys, from tensors named optimizer.KEY.PARAMETER."""
    moments = {}
    suffix = f".{parameter}"
    for name, tensor in tensors.items():
        if not name.startswith(_OPTIMIZER) or not name.endswith(suffix):
            continue
        key = name.removeprefix(_OPTIMIZER).removesuffix(suffix)
        if key.isidentifier():  # else the name is of a longer parameter
            moments[key] = tensor
    return moments


def _cut(log: Path, step: int) -> None:
    """Drop the lines of steps that will be repeated, and a half-written line."""
    complete = [line for line in log.read_text().splitlines() if line.endswith("}")]
    earlier = [line + "\n" for line in complete if json.loads(line)["step"] < step]
    atomic_write(log, earlier)
