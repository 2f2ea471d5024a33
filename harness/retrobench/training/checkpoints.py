"""
Checkpoints of a training, in safetensors. A checkpoint is written aside and renamed, so its name means complete.

Each holds the SHA-256 of its files, and of the log up to its step. A damaged checkpoint is reported and removed, and
training resumes from the checkpoint before. The store removes the last checkpoints when the stage has its final name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retrobench.core import file_hash, move, processes, say, sync
from retrobench.training.loss_scale import LossScale

__all__ = ["checkpoints", "load", "save"]

_MODEL, _OPTIMIZER = "model.", "optimizer."  # prefixes of the tensors' names
_FILES = ("state.json", "state.safetensors")
_SUMS = "SHA256SUMS"
_LOG = "log.jsonl"


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in `folder`, the newest last."""
    return sorted(folder.glob("step-*[0-9]"))


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
    """Write weights, buffers, the optimizer's moments and the loss scale. Keep the checkpoint before, as a fallback."""
    for earlier in checkpoints(folder)[:-1]:
        _discard(earlier)
    aside = folder / f"step-{step:09d}.new"
    aside.mkdir()
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, moment in optimizer.state.get(parameter, {}).items():
            tensors[f"{_OPTIMIZER}{key}.{name}"] = moment
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, aside / "state.safetensors")
    log = _read_log(folder)
    state = {"step": step, "cost": cost, "loss_scale": loss_scale.state(), "log": len(log), "log_sha256": _digest(log)}
    (aside / "state.json").write_text(json.dumps(state))
    (aside / _SUMS).write_text(_checksums(aside))
    # Without this a power cut could lose the bytes behind the new name.
    if log:
        sync(folder / _LOG)
    sync(aside)
    move(aside, folder / f"step-{step:09d}")


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, loss_scale: LossScale, device: torch.device
) -> tuple[int, dict[str, float]]:
    """Resume from the newest sound checkpoint in `folder`, if any; return the steps done and the cost so far."""
    if processes.leads():
        for unfinished in (*folder.glob("step-*.new"), *folder.glob("step-*.old")):
            shutil.rmtree(unfinished)
        _remove_damaged(folder)
    processes.meet()
    finished = checkpoints(folder)
    log = folder / _LOG
    if not finished:
        if processes.leads():
            log.unlink(missing_ok=True)
        return 0, {"seconds": 0.0, "data_seconds": 0.0, "tokens": 0.0}
    state = json.loads((finished[-1] / "state.json").read_text())
    _restore(finished[-1], model, optimizer, device)
    loss_scale.restore(state["loss_scale"])
    if processes.leads() and state["log"]:
        os.truncate(log, state["log"])  # the lines behind it are of steps that are repeated
    return state["step"], state["cost"]


def _remove_damaged(folder: Path) -> None:
    """Remove damaged checkpoints from the newest on, up to a sound one, and report each."""
    for checkpoint in reversed(checkpoints(folder)):
        fault = _fault(checkpoint)
        if not fault:
            return
        say(f"{checkpoint.name}: the checkpoint is damaged ({fault}) and is not used")
        _discard(checkpoint)


def _fault(checkpoint: Path) -> str:
    """Return the first difference of a checkpoint, or of the log before it, from their checksums; empty if none."""
    try:
        if (checkpoint / _SUMS).read_bytes() != _checksums(checkpoint).encode():
            return f"its files do not match {_SUMS}"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    state = json.loads((checkpoint / "state.json").read_text())
    if _digest(_read_log(checkpoint.parent)[: state["log"]]) != state["log_sha256"]:
        return f"{_LOG} is not the log that was written"
    return ""


def _checksums(checkpoint: Path) -> str:
    """Return the lines of sha256sum for a checkpoint's files."""
    return "".join(f"{file_hash(checkpoint / name)}  {name}\n" for name in _FILES)


def _read_log(folder: Path) -> bytes:
    log = folder / _LOG
    if not log.exists():
        return b""
    return log.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
